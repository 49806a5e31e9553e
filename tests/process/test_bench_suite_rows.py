"""The suite's graphs, priorities and batch jobs run, at small sizes, in processes of their own: what they measure is
not judged here. Their sequential twins and their graphs are held against answers from elsewhere."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench import _rows, _run, _targets, suite
from bench._model import Row, Setup, WrongResult
from bench._tasks import fold
from bench.workloads import dag, jobs, priorities
from bench.workloads._jobs import mandelbrot, primes, queens, sources, stdlib, words

NEW = (*dag.ROWS, *priorities.ROWS, *jobs.ROWS)
COUNT = 1_050  # not a whole number of rounds


def pairs() -> list[Any]:
    """Every new row with a target of each kind, as far as they fit, and the scheduler where it does something else."""
    chosen = []
    for row in NEW:
        # A job checks itself against its sequential twin, whoever runs it.
        names = ["mpsteal"] if row in jobs.ROWS else ["serial", "stock", "mpsteal", "mpsteal-scheduler"]
        chosen += [(row, name) for _, name in suite.plan([row], names, best=False)]
    return [pytest.param(row, name, id=f"{row.name}-{name}") for row, name in chosen]


@pytest.mark.parametrize(("row", "target"), pairs())
def test_row_runs(row: Row, target: str) -> None:
    cores = min(2, len(os.sched_getaffinity(0)))
    run = _run.measure_once(row, target, 0, quick=True, cores=cores)
    assert run.error == ""
    assert {figure.key for figure in row.figures} <= set(run.figures)
    assert all(value > 0 for value in run.figures.values())


def test_suite_has_the_new_rows() -> None:
    assert set(NEW) <= set(_rows.SUITE)
    assert {"dag-random", "priorities", "job-queens"} <= {row.name for row in NEW} & set(suite.QUICK_ROWS)


def test_lazy_row_is_for_those_that_have_a_lazy_map() -> None:
    lazy = [row for row in _rows.SUITE if row.name.endswith("imap")]
    assert {"imap", "large-partial-bytes-imap"} <= {row.name for row in lazy}
    assert all(_targets.IMAP in row.needs for row in lazy)


# -- graphs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("graph", [dag.chain, dag.forkjoin, dag.random_graph, dag.stencil])
def test_graph_has_no_cycle_and_a_part_is_its_beginning(graph: Any) -> None:
    needs = graph(COUNT)
    assert len(needs) == COUNT
    for i, before in enumerate(needs):
        assert all(0 <= j < i for j in before)
        assert len(set(before)) == len(before)
    assert graph(300) == needs[:300]


def depth(needs: dag.Graph) -> int:
    """Tasks on the longest way through the graph."""
    levels: list[int] = []
    for before in needs:
        levels.append(1 + max((levels[j] for j in before), default=0))
    return max(levels)


def test_chain_is_one_way_through() -> None:
    assert depth(dag.chain(COUNT)) == COUNT


def test_forkjoin_opens_and_closes() -> None:
    needs = dag.forkjoin(10_000)
    after = [0] * len(needs)
    for before in needs:
        for j in before:
            after[j] += 1
    joins = [i for i in range(len(needs)) if i % 100 == 0]
    assert [len(needs[i]) for i in joins] == [0] + [99] * 99
    assert {after[i] for i in joins} == {99}
    assert all(needs[i] == [i - i % 100] for i in range(len(needs)) if i % 100)
    assert depth(needs) == 200


def test_random_graph_reaches_a_hundred_back() -> None:
    needs = dag.random_graph(10_000)
    assert {len(before) for before in needs} == {0, 1, 2, 3}
    assert max(i - j for i, before in enumerate(needs) for j in before) == 100


def test_stencil_needs_its_neighbours_of_the_row_before() -> None:
    needs = dag.stencil(10_000)
    assert needs[:100] == [[]] * 100
    assert needs[100] == [0, 1]
    assert needs[150] == [49, 50, 51]
    assert needs[199] == [98, 99]
    assert needs[9_950] == [9_849, 9_850, 9_851]
    assert depth(needs) == 100


def test_fold_tells_the_order_of_what_a_task_needs() -> None:
    assert dag.evaluate(fold, [[], [], [0, 1], [1, 0]])[2:] == [
        (3 * 1_000_003 + 1) * 1_000_003 + 2,
        (4 * 1_000_003 + 2) * 1_000_003 + 1,
    ]


class Backwards(_targets.SerialSession):
    """A pool that hands a task what it needs in the wrong order."""

    def run_graph(self, fn: Any, count: int, needs: Any) -> list[Any]:
        return super().run_graph(lambda i, values: fn(i, values[::-1]), count, needs)


def test_graph_with_wrong_values_is_no_figure() -> None:
    target = _targets.Target("backwards", "", lambda *_: Backwards(), frozenset())
    with pytest.raises(WrongResult, match="graph"):
        dag.measure(Setup(target, quick=True, cores=1), dag.stencil, spins=False)


def test_drivers_graph_ends_with_the_error_of_a_task() -> None:
    def fail(i: int, values: list[Any]) -> int:
        raise ValueError(f"task {i} with {values}")

    class Told(_targets.SerialSession):
        def call_then(self, fn: Any, args: Any, then: Any) -> None:
            try:
                then(fn(*args))
            except ValueError as error:
                then(error)

    with pytest.raises(ValueError, match="task 0"):
        Told().run_graph(fail, 2, [[], [0]])


# -- jobs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("job", [stdlib, mandelbrot, words, primes, queens], ids=lambda job: job.__name__)
def test_tasks_merged_are_what_the_twin_says(job: ModuleType) -> None:
    items = queens.starts(9, 3) if job is queens else job.items(0.05)
    answer = job.twin(items)
    assert job.merge([job.task(item) for item in items]) == answer
    assert job.merge([job.task(item) for item in items[: len(items) // 2]]) != answer


@pytest.mark.parametrize(
    ("end", "count", "widest"), [(3, 1, 0), (10, 4, 2), (100, 25, 8), (10**5, 9_592, 72), (10**6, 78_498, 114)]
)
def test_primes(end: int, count: int, widest: int) -> None:
    """https://oeis.org/A006880 has the numbers of primes, https://oeis.org/A005250 the gaps."""
    assert primes.twin(primes.blocks(end)) == (count, widest)
    assert primes.merge([primes.task(block) for block in primes.blocks(end, end // 7 + 1)]) == (count, widest)


def test_primes_between_blocks_without_any() -> None:
    blocks = primes.blocks(200, 5)
    found = [primes.task(block) for block in blocks]
    assert (0, 0, 0, 0) in found
    assert primes.merge(found) == (46, 14)  # from 113 to 127


@pytest.mark.parametrize(("size", "ways"), [(4, 2), (5, 10), (6, 4), (7, 40), (8, 92), (9, 352)])
def test_queens(size: int, ways: int) -> None:
    """https://oeis.org/A000170"""
    starts = queens.starts(size, queens.DEPTH)
    assert queens.twin(starts) == ways
    assert queens.merge([queens.task(start) for start in starts]) == ways


def test_mandelbrot_knows_inside_from_outside() -> None:
    row = mandelbrot.task((100, 201))  # the real axis
    per_column = (mandelbrot.RIGHT - mandelbrot.LEFT) / (mandelbrot.WIDTH - 1)
    far, inside, origin, near = (row[round((x - mandelbrot.LEFT) / per_column)] for x in (-2.1, -1.0, 0.0, 0.6))
    assert inside == origin == mandelbrot.LIMIT
    assert 0 < far < near < 10


def test_mandelbrot_is_its_own_mirror_image() -> None:
    rows = [mandelbrot.task(item) for item in mandelbrot.items(0.1)]
    assert rows == rows[::-1]


def test_words(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("spam = eggs(spam, 2)\n")
    (tmp_path / "b.py").write_text("# spam!")
    assert words.twin([str(tmp_path / "a.py"), str(tmp_path / "b.py")]) == {b"spam": 3, b"eggs": 1}


def test_stdlib_counts(tmp_path: Path) -> None:
    good, broken = tmp_path / "good.py", tmp_path / "broken.py"
    good.write_text("def f(x):\n    if x:\n        return [y for y in x]\n\ndef g(): pass\n")
    broken.write_text("def\n")
    report = stdlib.merge([stdlib.task(str(good)), stdlib.task(str(broken))])
    assert report == (2, 1, 2, 2, [(3, str(good), "f"), (1, str(good), "g")])


def test_sources_are_drawn_up_to_the_budget_and_always_the_same() -> None:
    drawn = sources.draw(300_000, seed=11)
    sizes = [Path(path).stat().st_size for path in drawn]
    assert sum(sizes[:-1]) < 300_000 <= sum(sizes)
    assert drawn == sources.draw(300_000, seed=11)
    assert drawn != sources.draw(300_000, seed=13)
    assert len(set(drawn)) == len(drawn)


# -- priorities -----------------------------------------------------------------------------------------------------


def test_urgent_tasks_without_a_queue_are_no_figure() -> None:
    """A plain loop runs each task as it is submitted, so whatever is urgent comes too late."""
    with pytest.raises(AssertionError, match="empty"):
        priorities.measure(Setup(_targets.TARGETS["serial"], quick=True, cores=1))
