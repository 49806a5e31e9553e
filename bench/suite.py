"""Question: where does mpsteal stand, side by side with what else there is, and would the same come out elsewhere?

    python -m bench [options]           in a checkout
    mpsteal bench [options]             where it is installed

Each (row, target) pair of each round is a process of its own with a time limit, one at a time: in a round every row is
measured with every target, A B C, A B C, and then the next round begins, so that a drift of the machine falls on all
alike. A target's best documented setting (`+best`) stands beside its default, where the row has one. What is not
installed is skipped, and said so. Every result is compared with the serial answer. The median over the rounds counts.

    _targets ─┐                      ┌─> _run: one process for each ─> _stored (JSON, after each run; --resume)
    _rows    ─┴─> plan: who, what ───┘                                   └─> _suite_table, _html, compare

Not told: see each row's file, and `bench/README.md`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench import _html, _machine, _rows, _run, _stored, _suite_table, _targets
from bench._model import Row
from bench._stored import BEST
from bench.workloads import growth

SUITE_SHARE = 0.1
"""Of the sizes in the tables of goals: with fourteen targets, seconds for each count. Figures are per task, so this
costs precision only."""
LIMIT_S, QUICK_LIMIT_S = 60.0, 20.0
QUICK_TARGETS = ("serial", "stock", "ppe", "mpsteal", "mpsteal-executor", "mpsteal-scheduler")
QUICK_ROWS = (
    "submit",
    "imap",
    "map",
    "spin-20us",
    "spin-1ms",
    "skew-first",
    "skew-tail",
    "latency",
    "bursts",
    "recovery",
    "start-own",
    "large-both-8",
    "priorities",
    "dag-random",
    "job-queens",
)
"""Of each kind one: under two minutes on two cores."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, help="rounds (default 5, with --quick 1)")
    parser.add_argument("--quick", action="store_true", help="small sizes, few rows and targets: under two minutes")
    parser.add_argument("--only", nargs="+", default=[], metavar="ROW", help="rows, or families such as spin")
    parser.add_argument("--targets", nargs="+", default=[], metavar="TARGET", help="only these; default: all there are")
    parser.add_argument("--no-best", action="store_true", help="defaults only, no target with its best setting")
    parser.add_argument("--list", action="store_true", help="name rows and targets, and what is missing")
    parser.add_argument("--cores", type=int, default=2, help="confine each run to so many (default 2)")
    parser.add_argument("--limit", type=_seconds, metavar="S", help="seconds for one run (default 60, with --quick 20)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="keep every run there, after each run")
    parser.add_argument("--html", type=Path, metavar="PATH", help="write the report there (needs matplotlib)")
    parser.add_argument("--resume", action="store_true", help="go on with the run that --json holds")


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError("more than 0")
    return value


STANDS_FOR = frozenset({"spin-1ms", "start-own", "large-both-8", "dag-random", "job-queens"})
"""Of these families not the first row, but this one, is what targets that start slowly are measured in."""


def plan(
    rows: Sequence[Row], targets: Sequence[str], *, best: bool, named: Sequence[str] = ()
) -> list[tuple[Row, str]]:
    """Who is measured in which row, in the order of a round. `named`: rows that were asked for."""
    families: dict[str, list[str]] = {}
    for row in rows:
        families.setdefault(_suite_table.module_of(row), []).append(row.name)
    for_all = {next((name for name in names if name in STANDS_FOR), names[0]) for names in families.values()}
    pairs: list[tuple[Row, str]] = []
    for row in rows:
        for name in targets:
            target = _targets.TARGETS[name]
            if not row.needs <= target.has or name in row.not_for:
                continue
            if target.starts_slowly and row.name not in for_all and row.name not in named:
                continue
            pairs.append((row, name))
            if best and row.best_chunk is not None and target.chunk_word:
                pairs.append((row, name + BEST))
    return pairs


def choose_targets(names: Sequence[str], usual: Sequence[str]) -> tuple[list[str], list[dict[str, str]]]:
    """Those that are there, and what is missing with the reason. Unknown names, and named ones that are missing, end
    the program."""
    unknown = [name for name in names if name not in _targets.TARGETS]
    if unknown:
        raise SystemExit(f"no target called {' '.join(unknown)}; there are: {' '.join(_targets.TARGETS)}")
    wanted = list(names or usual)
    missing = {name: _targets.TARGETS[name].missing for name in wanted}
    if names and any(missing.values()):
        raise SystemExit("\n".join(f"{name}: {why}" for name, why in missing.items() if why))
    here = [name for name in wanted if not missing[name]]
    return here, [{"target": name, "why": why} for name, why in missing.items() if why]


def choose_rows(names: Sequence[str], table: str, quick: bool) -> list[Row]:
    rows = _rows.select(names, table=table)
    if quick and not names:
        # By name where a row stands for its kind; in the other table all but the sizes that take long.
        return [row for row in rows if row.name in QUICK_ROWS or (table == "growth" and not _is_large(row.name))]
    return rows


def split_rows(rows: Sequence[Row]) -> tuple[list[Row], list[dict[str, str]]]:
    """Those that can be measured here, and those that need a package that is missing, with the reason."""
    missing = {row.name: row.package for row in rows if row.package and not find_spec(row.package)}
    here = [row for row in rows if row.name not in missing]
    return here, [
        {"target": name, "why": f"{package} is not installed ({_targets.INSTALL})"} for name, package in missing.items()
    ]


def _is_large(name: str) -> bool:
    return name.endswith(("-1e5", "-1e6", "-1e7"))


def run(args: argparse.Namespace) -> int:
    """Return 0 if mpsteal gave a right answer everywhere, else 1; usage errors exit 2."""
    rows = choose_rows(args.only, args.command, args.quick)
    usual = growth.TARGETS if args.command == "growth" else QUICK_TARGETS if args.quick else tuple(_targets.TARGETS)
    targets, skipped = choose_targets(args.targets, usual)
    rows, absent = split_rows(rows)
    skipped += absent
    pairs = plan(rows, targets, best=not args.no_best, named=args.only)
    if args.list:
        print(_suite_table.listing(rows, targets, skipped))
        return 0
    if args.resume and args.json is None:
        raise SystemExit("--resume needs --json: the run to go on with")
    if args.html is not None:
        try:
            _html.require()
        except _html.MissingError as error:
            raise SystemExit(str(error)) from None
    if not pairs:
        why = "".join(f"\n{line['target']}: {line['why']}" for line in skipped)
        raise SystemExit(f"nothing to measure: none of these targets can do any of these rows (--list has all){why}")
    try:
        for path in filter(None, (args.json, args.html)):
            _stored.check_place(path)
    except _stored.UnwritableError as error:
        raise SystemExit(str(error)) from None
    limit_s = args.limit or (QUICK_LIMIT_S if args.quick else LIMIT_S)
    settings = {
        "table": args.command,
        "rounds": args.rounds,
        "quick": args.quick,
        "cores": args.cores,
        "limit_s": limit_s,
        "share": SUITE_SHARE,
        "rows": [row.name for row in rows],
        "targets": targets,
        "best": not args.no_best,
        "control": _targets.is_control(),
    }
    data = _begin(args, settings, rows, targets, skipped)
    for line in skipped:
        print(f"skipped: {line['target']}: {line['why']}", file=sys.stderr)
    if data["machine"]["cores_usable"] < args.cores:
        print(f"only {data['machine']['cores_usable']} core(s) here: figures will differ", file=sys.stderr)
    done = {(run["row"], run["pool"], run["round"]) for run in data["runs"]}
    left = [
        (row, name, number) for number in range(args.rounds) for row, name in pairs
        if (row.name, name, number) not in done
    ]  # fmt: skip
    progress = _suite_table.Progress(left, data["runs"])
    try:
        for row, name, number in left:
            began = time.monotonic()
            outcome = _run.measure_once(
                row, name, number, quick=args.quick, cores=args.cores, share=SUITE_SHARE, limit_s=limit_s, loud=False
            )
            seconds = round(time.monotonic() - began, 2)
            data["runs"].append({**vars(outcome), "seconds": seconds})
            data["settings"]["took_s"] = round(data["settings"]["took_s"] + seconds, 1)
            progress.tell(outcome, seconds)
            if args.json:
                _stored.write(args.json, data)
    except (KeyboardInterrupt, SystemExit):  # Ctrl-C, or a signal that ends programs
        progress.close()
        if args.json:
            print(f"stopped; go on with: --resume --json {args.json}", file=sys.stderr)
        raise
    progress.close()
    print(_suite_table.grid(data) if args.command == "growth" else _suite_table.table(data))
    if args.json:
        _stored.write(args.json, data)
        print(f"written: {args.json}")
    if args.html:
        _html.write(args.html, data)
        print(f"written: {args.html}")
    failed = [run for run in data["runs"] if run["error"] and _targets.is_ours(run["pool"])]
    return 1 if failed else 0


def _begin(
    args: argparse.Namespace,
    settings: dict[str, Any],
    rows: Sequence[Row],
    targets: Sequence[str],
    skipped: list[dict[str, str]],
) -> dict[str, Any]:
    """A new run, or the one that the file holds, if that was made with the same settings on the same code.

    Rows and targets may be fewer than it holds: some get more rounds than others then.
    """
    new = {
        "schema": _stored.SCHEMA,
        "kind": "suite",
        "made": _machine.now(),
        "command": " ".join(["mpsteal bench", *args.words]),
        "settings": settings | {"took_s": 0.0},
        "machine": _machine.describe(),
        "targets": [_about(name) for name in targets],
        "skipped": skipped,
        "rows": [_suite_table.about(row) for row in rows],
        "runs": [],
    }
    if not args.resume:
        return new
    try:
        old = _stored.read(args.json)
    except _stored.UnreadableError as error:
        raise SystemExit(str(error)) from None
    for key in ("table", "quick", "cores", "limit_s", "share", "control"):
        if old["settings"][key] != settings[key]:
            raise SystemExit(f"{args.json} was made with other settings: {key} {old['settings'][key]!r}")
    for key in ("rows", "targets"):
        if more := set(settings[key]) - set(old["settings"][key]):
            raise SystemExit(f"{args.json} was made with other settings: {key} without {' '.join(sorted(more))}")
    for key in ("python", "processor", "commit"):
        if old["machine"][key] != new["machine"][key]:
            raise SystemExit(f"{args.json} is of another {key}: {old['machine'][key]!r}, here {new['machine'][key]!r}")
    versions = {target["name"]: target["version"] for target in old["targets"]}
    for target in new["targets"]:
        if target["version"] != versions[target["name"]]:
            raise SystemExit(f"{args.json} is of {target['name']} {versions[target['name']]}, here {target['version']}")
    old["settings"]["rounds"] = max(settings["rounds"], old["settings"]["rounds"])
    if new["command"] not in old["command"]:
        old["command"] += f"; {new['command']}"
    return old


def _about(name: str) -> dict[str, str]:
    target = _targets.TARGETS[name]
    return {"name": name, "label": target.label, "version": target.version, "chunk_word": target.chunk_word}
