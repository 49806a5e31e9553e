"""`on_error=` of map-like calls, and the cancelling of maps."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import map_tasks as tasks
import pytest
from fault_tasks import NotForTravel, identity
from gates import Gates
from waiting import lines, wait_until

import mpsteal
from mpsteal import AgentDiedError, Failure, TaskCancelledError
from mpsteal.outcomes import Outcomes

Open = Callable[..., mpsteal.Pool]

MAPS: dict[str, Callable[..., Iterable[Any]]] = {
    "map": lambda pool, items, **how: pool.map(tasks.tens_fail, items, **how),
    "map in chunks": lambda pool, items, **how: pool.map(tasks.tens_fail, items, 7, **how),
    "map_async": lambda pool, items, **how: pool.map_async(tasks.tens_fail, items, **how).get(),
    "starmap": lambda pool, items, **how: pool.starmap(tasks.tens_fail_of, [(i, 0) for i in items], 7, **how),
    "starmap_async": lambda pool, items, **how: pool.starmap_async(
        tasks.tens_fail_of, [(i, 0) for i in items], **how
    ).get(),
    "imap": lambda pool, items, **how: pool.imap(tasks.tens_fail, items, **how),
    "imap in chunks": lambda pool, items, **how: pool.imap(tasks.tens_fail, items, 7, **how),
    "imap_unordered": lambda pool, items, **how: pool.imap_unordered(tasks.tens_fail, items, **how),
    "imap_unordered in chunks": lambda pool, items, **how: pool.imap_unordered(tasks.tens_fail, items, 7, **how),
}


def split(results: Iterable[Any]) -> tuple[dict[int, BaseException], list[Any]]:
    """Errors by index, and values."""
    results = list(results)
    failures = {each.index: each.error for each in results if isinstance(each, Failure)}
    return failures, [each for each in results if not isinstance(each, Failure)]


class TestCollect:
    @pytest.mark.parametrize("call", list(MAPS))
    def test_an_item_that_fails_costs_no_other(self, open_pool: Open, call: str) -> None:
        results = list(MAPS[call](open_pool(2), range(40), on_error="collect"))
        failures, values = split(results)
        assert sorted(failures) == [3, 13, 23, 33]
        assert all(type(error) is ValueError and error.args == (i,) for i, error in failures.items())
        assert all("RemoteTraceback" in repr(error.__cause__) for error in failures.values())
        assert sorted(values) == [i for i in range(40) if i % 10 != 3]
        if "unordered" not in call:
            assert [each.index if isinstance(each, Failure) else each for each in results] == list(range(40))

    def test_with_every_start_method(self, open_pool: Open, start_method: str) -> None:
        failures, values = split(open_pool(1, start_method).map(tasks.tens_fail, range(6), 3, on_error="collect"))
        assert list(failures) == [3] and values == [0, 1, 2, 4, 5]

    def test_what_cannot_travel_costs_no_other(self, open_pool: Open) -> None:
        kinds = ["good", "stays", "stops", "exits", NotForTravel(), "fine"]
        for results in (
            open_pool(1).map(tasks.by_kind, kinds, 6, on_error="collect"),
            list(open_pool(1).imap(tasks.by_kind, kinds, 6, on_error="collect")),
        ):
            failures, values = split(results)
            assert values == ["good", "fine"]
            assert {i: type(error).__name__ for i, error in failures.items()} == {
                1: "MaybeEncodingError", 2: "RuntimeError", 3: "SystemExit", 4: "TypeError",
            }  # fmt: skip
            assert "stays at home" in str(failures[4]) and "test_on_error.py" in str(failures[4])

    def test_a_chunk_of_which_nothing_can_be_sent(self, open_pool: Open) -> None:
        failures, values = split(open_pool(1).map(identity, [1, NotForTravel(), NotForTravel()], 1, on_error="collect"))
        assert sorted(failures) == [1, 2] and values == [1]
        failures, values = split(open_pool(1).map(identity, [NotForTravel()] * 2, 2, on_error="collect"))
        assert sorted(failures) == [0, 1] and values == []

    @pytest.mark.parametrize("call", ["map", "imap", "imap_unordered"])
    def test_the_death_of_an_agent_costs_its_chunk(self, open_pool: Open, call: str) -> None:
        kinds = ["a", "b", "c", "d", "dies"]
        failures, values = split(getattr(open_pool(1), call)(tasks.by_kind, kinds, 3, on_error="collect"))
        assert sorted(failures) == [3, 4], "also where the last chunk has fewer items"
        assert all(isinstance(error, AgentDiedError) for error in failures.values())
        assert sorted(values) == ["a", "b", "c"]

    def test_a_fork_that_leaves_its_task_does_not_go_on_with_the_chunk(self, open_pool: Open, tmp_path: Path) -> None:
        path = str(tmp_path / "ran")
        results = open_pool(1).map(partial(tasks.fork_and_leave, path), range(4), 4, on_error="collect")
        assert results == [0, 1, 2, 3]
        assert lines(path) == ["0", "1", "2", "3"]

    def test_the_end_of_the_pool_is_no_outcome_of_items(self, open_pool: Open, gates: Gates, tmp_path: Path) -> None:
        pool = open_pool(1)
        task = partial(tasks.at_gates, {0: gates()}, str(tmp_path / "ran"), -1)
        results = pool.map_async(task, range(3), 1, on_error="collect")
        iterator = pool.imap(task, range(3), on_error="collect")
        gates().wait_arrived()
        pool.terminate()
        with pytest.raises(mpsteal.PoolTerminatedError):
            results.get()
        with pytest.raises(mpsteal.PoolTerminatedError):
            next(iterator)

    def test_callbacks_get_the_list(self, open_pool: Open) -> None:
        called: list[Any] = []
        results = open_pool(1).map_async(
            tasks.tens_fail, [3, 4], callback=called.append, error_callback=called.append, on_error="collect"
        )
        assert called == [results.get()] and results.successful()


class TestCancel:
    def test_what_has_not_started_never_runs(self, open_pool: Open, gates: Gates, tmp_path: Path) -> None:
        pool, path = open_pool(1), str(tmp_path / "ran")
        task = partial(tasks.at_gates, {0: gates("wrong"), 1: gates("next")}, path, 0)
        results = pool.map_async(task, range(500), 1, on_error="cancel")
        gates("wrong").open()
        gates("next").wait_arrived()  # the agent is quicker than the parent
        wait_until(lambda: pool._engine.dispatcher.inflight == 1, "all but what runs withdrawn")
        assert not results.ready()
        gates("next").open()
        with pytest.raises(ValueError) as raised:
            results.get()
        assert lines(path) == ["1"]
        partial_results: list[Any] = raised.value.partial  # type: ignore[attr-defined]
        failures, values = split(partial_results)
        assert values == [1] and failures.pop(0) is raised.value
        assert sorted(failures) == list(range(2, 500))
        assert all(isinstance(error, TaskCancelledError) for error in failures.values())

    def test_of_its_own_chunk_what_came_before_is_kept_and_the_rest_not_run(
        self, open_pool: Open, tmp_path: Path
    ) -> None:
        path = str(tmp_path / "ran")
        with pytest.raises(ValueError) as raised:
            open_pool(1).map(partial(tasks.at_gates, {}, path, 2), range(5), 5, on_error="cancel")
        assert lines(path) == ["0", "1"]
        failures, values = split(raised.value.partial)  # type: ignore[attr-defined]
        assert values == [0, 1] and sorted(failures) == [2, 3, 4]

    @pytest.mark.parametrize("chunksize", [1, 4])
    @pytest.mark.parametrize("call", ["imap", "imap_unordered"])
    def test_an_iterator_gives_what_comes_before_and_ends(self, open_pool: Open, call: str, chunksize: int) -> None:
        pool = open_pool(2)
        iterator = getattr(pool, call)(tasks.tens_fail, itertools.count(4), chunksize, on_error="cancel")
        given = []
        with pytest.raises(ValueError):
            for value in iterator:
                given.append(value)
        if call == "imap":  # what had not started before the failing one did is withdrawn, too
            assert given == list(range(4, 4 + len(given))) and len(given) <= 9
        assert list(iterator) == []
        pool.close()
        pool.join()  # the input has no end

    def test_an_item_that_was_withdrawn_raises_what_it_was_withdrawn_for(self) -> None:
        given: dict[int, Any] = {}
        sink: Any = SimpleNamespace(
            items_of=lambda index: range(index, index + 1),
            deliver=lambda index, ok, value: given.update({index: (ok, value)}),
        )
        asked: list[bool] = []
        outcomes = Outcomes(
            sink, is_chunked=False, length=None, withdraw=lambda: asked.append(True), is_of_pool=lambda error: False
        )
        error, withdrawn = ValueError("the third"), TaskCancelledError("never begun")
        outcomes.deliver(0, True, "zero")
        outcomes.deliver(3, False, error)
        outcomes.deliver(2, False, withdrawn)
        assert given == {0: (True, "zero"), 3: (False, error), 2: (False, error)} and asked == [True]

    def test_what_can_not_be_sent_is_an_error_like_any(self, open_pool: Open) -> None:
        with pytest.raises(TypeError, match="stays at home") as raised:
            open_pool(1).map(identity, [1, NotForTravel(), 2], 3, on_error="cancel")
        failures, values = split(raised.value.partial)  # type: ignore[attr-defined]
        assert values == [1] and sorted(failures) == [1, 2]

    def test_an_error_that_takes_no_attributes(self, open_pool: Open) -> None:
        with pytest.raises(tasks.FrozenError) as raised:
            open_pool(1).map(tasks.by_kind, ["good", "freezes"], 1, on_error="cancel")
        assert raised.value.partial[0] == "good"  # type: ignore[attr-defined]

    def test_a_failure_that_a_task_returns_is_a_value(self, open_pool: Open) -> None:
        error = ValueError("returned")
        (value,) = open_pool(1).map(identity, [Failure(error, 5)], on_error="cancel")
        assert isinstance(value, Failure) and value.index == 5

    def test_without_errors_nothing_is_different(self, open_pool: Open) -> None:
        assert open_pool(2).map(identity, range(300), on_error="cancel") == list(range(300))
        assert list(open_pool(2).imap(identity, range(300), 7, on_error="cancel")) == list(range(300))


class TestCancelByHand:
    def test_a_map(self, open_pool: Open, gates: Gates, tmp_path: Path) -> None:
        pool, path = open_pool(2), str(tmp_path / "ran")
        task = partial(tasks.at_gates, {0: gates("a"), 1: gates("b")}, path, -1)
        results = pool.map_async(task, range(500), 1)
        gates("a").wait_arrived()
        gates("b").wait_arrived()
        others = [pool.map_async(identity, range(20), 1) for _ in range(3)]
        assert results.cancel()
        gates("a").open()
        gates("b").open()
        with pytest.raises(TaskCancelledError):
            results.get()
        assert sorted(lines(path)) == ["0", "1"]
        assert all(other.get() == list(range(20)) for other in others), "those of other calls stay"
        assert not results.cancel()

    def test_a_map_that_has_not_been_looked_at(self, open_pool: Open) -> None:
        pool = open_pool(1)
        results: list[mpsteal.MapResult[int]] = []
        answers: list[bool] = []

        def submit_and_cancel() -> None:  # in the engine's thread, which is busy with this
            results.append(pool.map_async(identity, range(10)))
            job = results[0]._job
            answers.append(pool._engine.dispatcher.cancels.cancel(job, end_running=False))

        pool._engine.call(submit_and_cancel)
        assert answers == [True]
        with pytest.raises(TaskCancelledError):
            results[0].get()
        assert not pool._engine.dispatcher.jobs and not pool._engine.dispatcher.pending

    @pytest.mark.parametrize("chunksize", [1, 2])
    def test_an_iterator(self, open_pool: Open, gates: Gates, tmp_path: Path, chunksize: int) -> None:
        pool, path = open_pool(1), str(tmp_path / "ran")
        task = partial(tasks.at_gates, {2: gates()}, path, -1)
        iterator = pool.imap(task, itertools.count(), chunksize)
        assert [next(iterator), next(iterator)] == [0, 1]
        gates().wait_arrived()
        assert iterator.cancel()
        gates().open()
        given = []
        with pytest.raises(TaskCancelledError):
            for value in iterator:
                given.append(value)
        assert given == list(range(2, 2 + chunksize))
        assert list(iterator) == []
        assert [int(line) for line in lines(path)] == list(range(2 + chunksize))

    def test_what_runs_can_be_ended(self, open_pool: Open, gates: Gates, tmp_path: Path) -> None:
        pool = open_pool(1)
        task = partial(tasks.at_gates, {0: gates()}, str(tmp_path / "ran"), -1)
        results = pool.map_async(task, range(5), 1, on_error="cancel")
        gates().wait_arrived()
        assert results.cancel(end_running=True)
        with pytest.raises(TaskCancelledError) as raised:
            results.get()
        failures, _ = split(raised.value.partial)  # type: ignore[attr-defined]
        assert sorted(failures) == list(range(5))

    def test_who_asks_later_and_for_less_takes_nothing_back(
        self, open_pool: Open, gates: Gates, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        pool = open_pool(1)
        task = partial(tasks.at_gates, {0: gates()}, str(tmp_path / "ran"), -1)
        results = pool.map_async(task, range(5), 1)
        gates().wait_arrived()
        cancels, job = pool._engine.dispatcher.cancels, results._job

        def ask_twice() -> list[bool]:
            with monkeypatch.context() as patch:
                patch.setattr(cancels, "_look", lambda _: None)  # as if the agent could not be reached
                return [cancels.cancel(job, end_running=True), cancels.cancel(job, end_running=False)]

        assert pool._engine.call(ask_twice) == [True, True]
        with pytest.raises(TaskCancelledError):
            results.get()  # the agent waits at its gate until it is ended

    def test_what_is_over_or_ended_with_its_pool_is_not_cancelled(self, open_pool: Open) -> None:
        pool = open_pool(1)
        results, iterator = pool.map_async(identity, [1]), pool.imap(identity, [1])
        assert results.get() == list(iterator) == [1]
        pool.terminate()
        assert not results.cancel() and not iterator.cancel()


@pytest.mark.parametrize("call", ["map", "map_async", "starmap", "starmap_async", "imap", "imap_unordered"])
def test_other_words_are_refused(open_pool: Open, call: str) -> None:
    pool = open_pool(1)
    with pytest.raises(ValueError, match='"raise", "collect" or "cancel"'):
        getattr(pool, call)(identity, [1], on_error="ignore")
    with pytest.raises(TypeError, match="progress must be True, False or a description"):
        getattr(pool, call)(identity, [1], progress=3)
