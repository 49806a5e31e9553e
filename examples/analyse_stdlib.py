"""Analyse every .py file of the standard library, on mpsteal.Pool and on the stock Pool.

Real input that every machine has, and naturally uneven: some two thousand files whose sizes differ
a thousandfold. Each is read, tokenised and parsed; functions, branches and the longest function are
counted. The same job runs on both pools, the results are compared, and the times are printed side
by side:

    mpsteal.Pool            imap_unordered(analyse, files)              nothing to choose
    multiprocessing.Pool    imap_unordered(analyse, files)              the default, file by file
    multiprocessing.Pool    imap_unordered(analyse, files, chunksize)   as Pool.map would choose it

    python examples/analyse_stdlib.py [--processes N] [--limit N] [--start-method METHOD]

Times include starting and closing the pool. All files are read once beforehand, so no run pays
for a cold disk. What these figures cannot tell: tasks here last milliseconds, where every pool
keeps its processes busy most of the time, and a busy machine moves one run by more than the pools
differ. For small tasks, and for the spread, see bench/.
"""

from __future__ import annotations

import argparse
import ast
import io
import multiprocessing
import multiprocessing.pool
import os
import sys
import sysconfig
import time
import tokenize
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import mpsteal

BRANCHES = (
    *(ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.Assert),
    *(ast.comprehension, ast.BoolOp, ast.match_case),
)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


class FileReport(NamedTuple):
    """What one task returns. An unreadable file has zeros and says why."""

    path: str
    lines: int = 0
    tokens: int = 0
    functions: int = 0
    branches: int = 0
    longest_name: str = ""
    longest_lines: int = 0
    unreadable: str = ""

    @property
    def complexity(self) -> int:
        """McCabe's number summed over the file: one for each function and one for each branch."""
        return self.functions + self.branches


class Run(NamedTuple):
    """One pass over all files."""

    label: str
    reports: dict[str, FileReport]
    wall_s: float


def analyse(path: str) -> FileReport:
    """The task: read one file and count what is in it."""
    source = Path(path).read_bytes()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old escapes and the like: not our program's business
            tokens = sum(1 for _ in tokenize.tokenize(io.BytesIO(source).readline))
            tree = ast.parse(source, path)
    except (SyntaxError, tokenize.TokenError, ValueError, RecursionError, MemoryError) as error:
        # The library's own tests hold files that are broken on purpose. (The parser calls too deep
        # a nesting MemoryError.) The type alone is kept: messages may hold addresses, and reports
        # are compared.
        return FileReport(path, unreadable=type(error).__name__)
    functions = branches = longest_lines = 0
    longest_name = ""
    for node in ast.walk(tree):
        if isinstance(node, FUNCTIONS):
            functions += 1
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > longest_lines and not isinstance(node, ast.Lambda):
                longest_name, longest_lines = node.name, length
        elif isinstance(node, BRANCHES):
            branches += 1
    lines = source.count(b"\n")
    return FileReport(path, lines, tokens, functions, branches, longest_name, longest_lines)


def find_files() -> list[str]:
    """Every .py file of the standard library, its tests included, installed packages left out."""
    root = Path(sysconfig.get_path("stdlib"))
    installed = {"site-packages", "dist-packages"}
    return sorted(
        str(path)
        for path in root.rglob("*.py")
        if installed.isdisjoint(path.relative_to(root).parts) and path.is_file()
    )


def show_progress(label: str, results: Iterable[FileReport], total: int) -> Iterator[FileReport]:
    """Pass results on and show how far they are: a bar on a terminal, else a line per tenth."""
    stream = sys.stderr
    is_terminal = stream.isatty()
    started = time.perf_counter()
    next_shown_s, next_tenth, done = 0.0, 1, 0
    for done, result in enumerate(results, 1):
        yield result
        elapsed = time.perf_counter() - started
        if is_terminal:
            is_due = elapsed >= next_shown_s or done == total
        else:
            is_due = done * 10 >= next_tenth * total
        if not is_due:
            continue
        next_shown_s = elapsed + 0.1
        next_tenth = done * 10 // total + 1
        rate = done / max(elapsed, 1e-9)
        left = (total - done) / rate
        text = f"{done}/{total}  {rate:,.0f} files/s  {int(left) // 60}:{int(left) % 60:02d} left"
        if is_terminal:
            bar = ("#" * (done * 30 // total)).ljust(30, ".")
            stream.write(f"\r{label:<34} [{bar}] {text}\x1b[K")
        else:
            stream.write(f"{label:<34} {done * 100 // total:3d} %  {text}\n")
        stream.flush()
    if is_terminal and done:
        stream.write("\n")


def run_job(
    label: str,
    make_pool: Callable[[], Any],
    files: list[str],
    *,
    chunksize: int | None = None,
    before_close: Callable[[Any], None] = lambda _pool: None,
) -> Run:
    """Analyse all files on a pool that is started and closed inside the measured time."""
    more = {} if chunksize is None else {"chunksize": chunksize}
    started = time.perf_counter()
    with make_pool() as pool:
        results = pool.imap_unordered(analyse, files, **more)
        reports = {report.path: report for report in show_progress(label, results, len(files))}
        before_close(pool)
        pool.close()
        pool.join()
    return Run(label, reports, time.perf_counter() - started)


def print_most_complex(reports: Iterable[FileReport]) -> None:
    root = sysconfig.get_path("stdlib")
    everything = list(reports)
    unreadable = sum(1 for report in everything if report.unreadable)
    print(
        f"{len(everything):,} files, {sum(r.lines for r in everything):,} lines, "
        f"{sum(r.tokens for r in everything):,} tokens, {unreadable} unreadable (broken on purpose)"
    )
    print("\nThe ten most complex files (functions + branches):\n")
    print(f"{'complexity':>10}  {'functions':>9}  {'branches':>8}  file, longest function")
    for report in sorted(everything, key=lambda r: (-r.complexity, r.path))[:10]:
        longest = f"{report.longest_name} ({report.longest_lines} lines)"
        print(
            f"{report.complexity:>10,}  {report.functions:>9,}  {report.branches:>8,}  "
            f"{os.path.relpath(report.path, root)}, {longest}"
        )


def print_agents(stats: Any, wall_s: float) -> None:
    agents = stats.agents
    all_tasks = sum(agent.tasks_done for agent in agents) or 1
    all_busy_s = sum(agent.busy_s for agent in agents) or 1.0
    print("\nEach agent's share on mpsteal.Pool:\n")
    columns = f"{'agent':>5}  {'pid':>7}  {'chunks':>6}  {'share':>5}  {'busy s':>7}  {'share':>5}"
    print(f"{columns}  steals")
    for agent in agents:
        print(
            f"{agent.slot:>5}  {agent.pid:>7}  "
            f"{agent.tasks_done:>6,}  {agent.tasks_done / all_tasks:>5.0%}  "
            f"{agent.busy_s:>7.2f}  {agent.busy_s / all_busy_s:>5.0%}  "
            f"{agent.steals:,} ({agent.chunks_stolen:,} chunks moved, "
            f"{agent.steals_failed:,} tries in vain)"
        )
    steals = sum(agent.steals for agent in agents)
    busy = all_busy_s / (wall_s * len(agents))
    print(f"\nWork was stolen {steals:,} times; agents were busy {busy:.0%} of the time.")


def print_times(ours: Run, others: list[Run]) -> None:
    print(f"\n{'':<34} {'seconds':>8}  {'stock / mpsteal':>15}")
    print(f"{ours.label:<34} {ours.wall_s:>8.2f}")
    for run in others:
        print(f"{run.label:<34} {run.wall_s:>8.2f}  {run.wall_s / ours.wall_s:>14.2f}x")


def usable_cpus() -> int:
    """CPUs that this process may use; both pools get this number."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def parse_arguments() -> argparse.Namespace:
    def positive(text: str) -> int:
        number = int(text)
        if number < 1:
            raise ValueError
        return number

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--processes", type=positive, default=usable_cpus(), metavar="N")
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N files")
    parser.add_argument("--start-method", choices=multiprocessing.get_all_start_methods())
    return parser.parse_args()


def main() -> int:
    options = parse_arguments()
    context = multiprocessing.get_context(options.start_method)
    processes = options.processes
    files = find_files()[: options.limit]
    if not files:
        print("this interpreter's standard library has no .py files to read", file=sys.stderr)
        return 1
    print(
        f"Python {sys.version.split()[0]}, {processes} processes, {context.get_start_method()}: "
        f"{len(files):,} files below {sysconfig.get_path('stdlib')}",
        flush=True,
    )
    for path in files:
        Path(path).read_bytes()

    stats: list[Any] = []
    ours = run_job(
        "mpsteal.Pool",
        lambda: mpsteal.Pool(processes, context=context),
        files,
        before_close=lambda pool: stats.append(pool.stats()),
    )

    def stock_pool() -> Any:
        return multiprocessing.pool.Pool(processes, context=context)

    # The rule of Pool.map, written out: four chunks for each process.
    tuned = -(-len(files) // (processes * 4))
    others = [
        run_job("multiprocessing.Pool, default", stock_pool, files),
        run_job(f"multiprocessing.Pool, chunksize={tuned}", stock_pool, files, chunksize=tuned),
    ]

    print()
    print_most_complex(ours.reports.values())
    print_agents(stats[0], ours.wall_s)
    print_times(ours, others)
    if any(run.reports != ours.reports for run in others) or len(ours.reports) != len(files):
        print("\nThe pools do NOT agree on the results.", file=sys.stderr)
        return 1
    print(f"\nAll {1 + len(others)} runs gave the same {len(files):,} results.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
