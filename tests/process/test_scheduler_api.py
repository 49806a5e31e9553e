"""What the scheduler, its tasks and agents offer, with real agents: the issue's example, futures, threads, ends."""

from __future__ import annotations

import asyncio
import datetime
import gc
import logging
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import (
    ALL_COMPLETED,
    FIRST_COMPLETED,
    FIRST_EXCEPTION,
    CancelledError,
    Future,
    as_completed,
    wait,
)
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path
from typing import Any, NoReturn

import fault_tasks as tasks
import pytest
from gates import Gates, pass_gate
from scheduler_tasks import (
    agents,
    check_at_rest,
    forked,
    hold,
    note_and_pid,
    pass_and_pid,
    wait_gone_for_good,
    wait_ready,
    wait_taken_in,
)
from waiting import ALARM_S, lines, program, wait_gone, wait_until

import mpsteal
from mpsteal import Agent, ConfigError, PoolTerminatedError, Task, TaskCancelledError, WorkStealingScheduler
from mpsteal._engine.future import _watches
from mpsteal.config import Config, load_config

Open = Callable[..., WorkStealingScheduler]

EXAMPLE = """
from mpsteal import WorkStealingScheduler, Agent, Task, WorkStealingMetrics
scheduler = WorkStealingScheduler()                      # or (config="config/default.yaml"), a mapping, a Config
scheduler.start()
scheduler.register_agent(Agent("worker_1", ["python"]))  # starts an OS process
scheduler.register_agent(Agent("worker_2", ["python"]))
task = Task("analysis", ["python"], priority=3)          # no function: a marker that completes when placed and reached
handle = scheduler.submit_task(task)
print(scheduler.get_metrics())
"""


class TestExample:
    def test_runs_as_it_stands(self, tmp_path: Path) -> None:
        """It stops nothing, so the end of the program has to."""
        with program(tmp_path, EXAMPLE) as example:
            assert example.wait() == 0, example.errors
            assert "'submitted': 1" in example.output
            assert example.errors == ""
            example.check_nothing_left()

    def test_its_marker_completes(self, open_scheduler: Open, start_method: str) -> None:
        scheduler = open_scheduler(Agent("worker_1", ["python"]), Agent("worker_2", ["python"]), method=start_method)
        task = Task("analysis", ["python"], priority=3)
        handle = scheduler.submit_task(task)
        assert handle is task and isinstance(handle, Future)
        assert handle.result(ALARM_S) is None
        assert handle.agent_id in ("worker_1", "worker_2")

    @pytest.mark.parametrize("source", ["file", "mapping", "Config"])
    def test_config_may_be_a_file_a_mapping_or_a_config(self, tmp_path: Path, source: str) -> None:
        file = tmp_path / "rules.yaml"
        file.write_text("strategy: pull\nagents:\n  max_agents: 3\n")
        given = {
            "file": file,
            "mapping": {"strategy": "pull", "agents": {"max_agents": 3}},
            "Config": load_config(file),
        }[source]
        with WorkStealingScheduler(config=given, balancing__interval_s=7) as scheduler:
            assert isinstance(scheduler.config, Config)
            assert (scheduler.config.strategy, scheduler.config.agents.max_agents) == ("pull", 3)
            assert scheduler.config.balancing.interval_s == 7.0
            scheduler.register_agent(Agent("a"))
            assert scheduler.submit_task(Task("t", fn=tasks.double, args=(1,))).result(ALARM_S) == 2

    def test_a_wrong_config_starts_nothing(self) -> None:
        with pytest.raises(ConfigError, match="strategy"):
            WorkStealingScheduler(strategy="shove")
        with pytest.raises(ConfigError, match="did you mean"):
            WorkStealingScheduler({"strategie": "push"})
        with pytest.raises(TypeError, match="initializer must be a callable"):
            WorkStealingScheduler(initializer=3)  # type: ignore[arg-type]


class TestTask:
    def test_fields_are_what_was_given(self) -> None:
        other = Task("other")
        task = Task(
            "name",
            ["b", "a"],
            2,
            [other, other.id],
            fn=tasks.add,
            args=[1],
            kwargs={"b": 2},
            deadline=5,
            timeout=6,
            retries=7,
            cost=8,
        )
        assert (task.name, task.skill_requirements, task.priority) == ("name", frozenset("ab"), 2)
        assert task.dependencies == (other, other.id)
        assert (task.fn, task.args, task.kwargs) == (tasks.add, (1,), {"b": 2})
        assert (task.deadline, task.timeout, task.retries, task.cost) == (5, 6, 7, 8)
        plain = Task("plain")
        assert (plain.skill_requirements, plain.priority, plain.dependencies) == (frozenset(), 3, ())
        assert (plain.fn, plain.args, plain.kwargs, plain.retries) == (None, (), {}, 0)
        assert plain.deadline is plain.timeout is plain.cost is None
        assert other.id < task.id < plain.id

    def test_states_and_times_from_its_making_to_its_end(self, open_scheduler: Open, gates: Gates) -> None:
        before = time.time()
        scheduler = open_scheduler(*agents(2))
        blocker, gate = gates("held"), gates("running")
        hold(scheduler, blocker, count=2)
        first = Task("first", fn=tasks.double, args=(1,))
        task = Task("task", dependencies=[first], fn=pass_gate, args=(gate, 5))
        seen = [task.state]
        assert task.created_at is not None and task.assigned_at is task.started_at is task.completed_at is None
        scheduler.submit_tasks([first, task])
        wait_taken_in(scheduler)
        assert first.state == "queued" and first.assigned_at is not None
        seen.append(task.state)
        blocker.release()
        gate.wait_arrived()
        seen.append(task.state)
        assert task.running() and not task.done() and task.assigned_at is not None and task.completed_at is None
        gate.open()
        assert task.result(ALARM_S) == 5
        seen.append(task.state)
        assert seen == ["created", "waiting", "running", "done"]
        assert task.done() and not task.running() and not task.cancelled()
        for over in (first, task):
            times = [before, over.created_at, over.assigned_at, over.started_at, over.completed_at, time.time()]
            assert None not in times
            assert times == sorted(times), times  # type: ignore[type-var]
        assert (first.completed_at or 0) <= (task.started_at or 0)
        blocker.open()
        check_at_rest(scheduler)

    def test_times_and_counts_are_there_for_whoever_is_woken(self, open_scheduler: Open) -> None:
        """Threads take turns as often as they can, so that the waiter goes on as soon as it may."""
        scheduler = open_scheduler(*agents(2))
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            for n in range(1, 1500):
                task = scheduler.submit_task(Task("t", fn=tasks.double, args=(1,), deadline=1e-6 if n % 3 else None))
                assert task.result(ALARM_S) == 2
                assert task.started_at is not None and task.completed_at is not None and task.agent_id is not None
                assert task.deadline_missed == (n % 3 > 0)
                assert scheduler.metrics.succeeded == n
        finally:
            sys.setswitchinterval(interval)
        check_at_rest(scheduler)

    @pytest.mark.parametrize(
        ("make", "kind", "words"),
        [
            pytest.param(lambda: Task("t", "python"), TypeError, r"write \['python'\]", id="skills as one string"),
            pytest.param(lambda: Task("t", [""]), TypeError, "words that are not empty", id="an empty skill"),
            pytest.param(lambda: Task("t", [1]), TypeError, "words", id="a skill that is no word"),
            pytest.param(lambda: Task("t", priority=0), ValueError, "from 1 to 5, not 0", id="priority 0"),
            pytest.param(lambda: Task("t", priority=6), ValueError, "from 1 to 5, not 6", id="priority 6"),
            pytest.param(lambda: Task("t", priority=3.0), ValueError, "whole number", id="priority 3.0"),
            pytest.param(lambda: Task("t", priority=True), ValueError, "whole number", id="priority True"),
            pytest.param(lambda: Task("t", fn=3), TypeError, "fn must be a callable", id="fn"),
            pytest.param(lambda: Task("t", args=(1,)), ValueError, "a marker", id="arguments of a marker"),
            pytest.param(lambda: Task("t", timeout=0), ValueError, "above 0", id="timeout 0"),
            pytest.param(lambda: Task("t", timeout="1"), TypeError, "timeout must be a number", id="timeout as a text"),
            pytest.param(lambda: Task("t", timeout=float("nan")), ValueError, "timeout", id="timeout NaN"),
            pytest.param(lambda: Task("t", cost=-1), ValueError, "cost", id="negative cost"),
            pytest.param(lambda: Task("t", deadline=float("inf")), ValueError, "deadline", id="infinite deadline"),
            pytest.param(lambda: Task("t", deadline="soon"), TypeError, "deadline", id="deadline as a text"),
            pytest.param(lambda: Task("t", retries=-1), ValueError, "retries", id="negative retries"),
            pytest.param(lambda: Task("t", retries=0.5), ValueError, "retries", id="retries as a fraction"),
            pytest.param(lambda: Agent(""), TypeError, "agent_id must be a word", id="empty agent id"),
            pytest.param(lambda: Agent(3), TypeError, "agent_id must be a word", id="agent id as a number"),
            pytest.param(lambda: Agent("a", "python"), TypeError, "capabilities", id="capabilities as one string"),
        ],
    )
    def test_wrong_arguments_are_refused_with_what_is_allowed(
        self, make: Callable[[], Any], kind: type[Exception], words: str
    ) -> None:
        with pytest.raises(kind, match=words):
            make()

    def test_what_is_submitted_must_be_a_task(self, open_scheduler: Open) -> None:
        scheduler = open_scheduler(Agent("a"))
        for submit in (lambda: scheduler.submit_task(tasks.double), lambda: scheduler.submit_tasks([Task("t"), 3])):  # type: ignore[arg-type,list-item]
            with pytest.raises(TypeError, match="a Task is wanted"):
                submit()
        assert scheduler.submit_tasks([]) == []
        assert scheduler.get_metrics()["tasks"]["submitted"] == 0

    def test_a_call_that_cannot_be_pickled_fails_alone_and_says_which(
        self, open_scheduler: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "cloudpickle", None)  # as if it were not installed
        scheduler = open_scheduler(Agent("a"))
        made = scheduler.submit_tasks(
            [
                Task("before", fn=tasks.double, args=(1,)),
                Task("lambda", fn=lambda: 1),
                Task("argument", fn=tasks.identity, args=(tasks.NotForTravel(),)),
                Task("exits", fn=tasks.identity, args=(tasks.ExitsWhenPickled(),)),
                Task("after", fn=tasks.double, args=(2,)),
            ]
        )
        errors = [task.exception(ALARM_S) for task in made]
        assert errors[0] is errors[4] is None
        assert isinstance(errors[1], (pickle.PicklingError, AttributeError)) and "top level of a module" in str(
            errors[1]
        )
        assert isinstance(errors[2], TypeError) and "identity cannot be pickled" in str(errors[2])
        assert isinstance(errors[3], SystemExit)
        assert check_at_rest(scheduler)["tasks"]["failed"] == 3

    def test_when_memory_runs_out_while_calls_are_pickled_each_is_answered(
        self, open_scheduler: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Those pickled so far are lost with the buffer, those behind it come next."""
        scheduler = open_scheduler(Agent("a"))
        encoder = scheduler._dispatcher.encoder
        out_of_memory: list[int] = []

        def lose(start: int) -> NoReturn:
            out_of_memory.append(start)
            raise MemoryError

        made = [
            Task("before", fn=tasks.identity, args=("before",)),
            Task("bad", fn=tasks.identity, args=(tasks.NotForTravel(),)),
            *[Task("behind", fn=tasks.identity, args=(i,)) for i in range(50)],
        ]
        with monkeypatch.context() as patch:
            patch.setattr(encoder, "forget_from", lose)
            scheduler.submit_tasks(made)
            assert isinstance(made[0].exception(ALARM_S), MemoryError)
            assert isinstance(made[1].exception(ALARM_S), TypeError)
        assert out_of_memory
        assert [task.result(ALARM_S) for task in made[2:]] == list(range(50))
        check_at_rest(scheduler)

    def test_what_it_raises_is_raised_with_its_traceback(self, open_scheduler: Open) -> None:
        scheduler = open_scheduler(Agent("a"))
        task = scheduler.submit_task(Task("t", fn=tasks.raise_this, args=(LookupError, "no such word")))
        with pytest.raises(LookupError, match="no such word"):
            task.result(ALARM_S)
        error = task.exception()
        assert type(error) is LookupError
        assert "in raise_this" in str(error.__cause__)
        odd = scheduler.submit_task(Task("t", fn=tasks.raise_odd_init))
        with pytest.raises(mpsteal.RemoteError, match="OddInitError: 3 and 4"):
            odd.result(ALARM_S)

    def test_large_arguments_and_results(self, open_scheduler: Open) -> None:
        """Past the ring, past the slab, beside small ones."""
        scheduler = open_scheduler(*agents(2))
        sizes = [10, 3 << 20, 100, 1 << 20, 70_000, 5]
        made = scheduler.submit_tasks(
            [
                Task("t", fn=tasks.size_and_ends, args=(b"\x01" * (size - 1) + b"\x02",), priority=p)
                for size in sizes
                for p in (3, 5)
            ]
        )
        assert [task.result(ALARM_S) for task in made] == [(size, 1, 2) for size in sizes for _ in (3, 5)]
        results = scheduler.submit_tasks([Task("t", fn=tasks.make_bytes, args=(size,)) for size in sizes])
        assert [len(task.result(ALARM_S)) for task in results] == sizes
        check_at_rest(scheduler)

    def test_partials_methods_and_keywords(self, open_scheduler: Open) -> None:
        from functools import partial

        scheduler = open_scheduler(Agent("a"))
        made = scheduler.submit_tasks(
            [
                Task("t", fn=partial(tasks.add, 3), args=(4,)),
                Task("t", fn="a-b".split, args=("-",)),
                Task("t", fn=int, args=("ff",), kwargs={"base": 16}),
                Task("t", fn=tasks.add, args=(-(1 << 62), 1)),
            ]
        )
        assert [task.result(ALARM_S) for task in made] == [7, ["a", "b"], 255, 1 - (1 << 62)]


class TestFutures:
    @pytest.mark.parametrize("return_when", [ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION])
    def test_wait(self, open_scheduler: Open, gates: Gates, return_when: str) -> None:
        scheduler = open_scheduler(*agents(2))
        gate = gates("held")
        held = scheduler.submit_task(Task("held", fn=pass_gate, args=(gate,)))
        gate.wait_arrived()
        quick = scheduler.submit_task(Task("quick", fn=tasks.raise_this, args=(ValueError,)))
        if return_when == ALL_COMPLETED:
            assert wait([held, quick], 0.01).not_done
            gate.open()
        done, not_done = wait([held, quick], ALARM_S, return_when)
        assert (done, not_done) == (({held, quick}, set()) if return_when == ALL_COMPLETED else ({quick}, {held}))
        gate.open()
        assert wait([held, quick], ALARM_S).done == {held, quick}
        assert wait([held, quick]).done == {held, quick}, "also when all are over"

    def test_as_completed(self, open_scheduler: Open, gates: Gates) -> None:
        scheduler = open_scheduler(*agents(2))
        gate = gates("held")
        held = scheduler.submit_task(Task("held", fn=pass_gate, args=(gate, "held")))
        gate.wait_arrived()
        others = [scheduler.submit_task(Task("t", fn=tasks.double, args=(i,))) for i in range(20)]
        order = []
        for task in as_completed([held, *others], ALARM_S):
            order.append(task)
            if len(order) == 20:
                gate.open()
        assert order[-1] is held
        assert set(order[:-1]) == set(others)
        with pytest.raises(FutureTimeoutError):
            list(as_completed([scheduler.submit_task(Task("t", ["nobody"]))], 0.01))

    def test_many_threads_wait_in_every_way_just_while_tasks_end(self, open_scheduler: Open) -> None:
        """The lock of a task is made when somebody first looks. Nobody may miss another over it."""
        scheduler = open_scheduler(*agents(2))
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        errors: list[BaseException] = []
        until = time.monotonic() + 1.5

        def look(number: int) -> None:
            try:
                while time.monotonic() < until:
                    group = [scheduler.submit_task(Task("t", fn=tasks.double, args=(i,))) for i in range(5)]
                    seen = []
                    for task in group:
                        task.add_done_callback(seen.append)
                    ways: list[Callable[[list[Task]], Any]] = [
                        lambda group: wait(group, ALARM_S),
                        lambda group: list(as_completed(group, ALARM_S)),
                        lambda group: [task.result(ALARM_S) for task in group],
                        lambda group: [task.exception(ALARM_S) for task in group[::-1]],
                    ]
                    helper = threading.Thread(target=ways[(number + 1) % 4], args=(group,))
                    helper.start()
                    ways[number % 4](group)
                    helper.join()
                    assert [task.result(0) for task in group] == [0, 2, 4, 6, 8]
                    wait_until(lambda seen=seen: len(seen) == 5, "all callbacks")
            except BaseException as error:
                errors.append(error)

        try:
            threads = [threading.Thread(target=look, args=(i,)) for i in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            sys.setswitchinterval(interval)
        assert errors == []
        check_at_rest(scheduler)

    def test_asyncio_wraps_it(self, open_scheduler: Open, gates: Gates) -> None:
        scheduler = open_scheduler(*agents(2))
        gate = gates("held")

        async def main() -> list[Any]:
            good = asyncio.wrap_future(scheduler.submit_task(Task("t", fn=tasks.double, args=(4,))))
            bad = asyncio.wrap_future(scheduler.submit_task(Task("t", fn=tasks.raise_this, args=(KeyError, "x"))))
            held = scheduler.submit_task(Task("held", fn=pass_gate, args=(gate,)))
            gone = scheduler.submit_task(Task("gone", dependencies=[held]))
            wrapped = asyncio.wrap_future(gone)
            wrapped.cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert gone.cancelled()
            assert gone.cancel()
            gate.open()
            await asyncio.wrap_future(held)
            return list(await asyncio.gather(good, bad, wrapped, return_exceptions=True))

        good, bad, gone = asyncio.run(main())
        assert good == 8
        assert isinstance(bad, KeyError)
        assert isinstance(gone, asyncio.CancelledError)
        check_at_rest(scheduler)

    def test_result_waits_no_longer_than_asked(self, open_scheduler: Open, gates: Gates) -> None:
        scheduler = open_scheduler(Agent("a"))
        gate = gates("held")
        (held,) = hold(scheduler, gate)
        for ask in (held.result, held.exception):
            with pytest.raises(FutureTimeoutError):
                ask(timeout=0.01)
            with pytest.raises(FutureTimeoutError):
                ask(0)
        assert scheduler.wait_all(0.01) is False
        gate.open()
        assert scheduler.wait_all(ALARM_S) is True
        assert held.result(0) == scheduler.agents["a"].pid

    def test_wait_all_does_not_wait_for_what_comes_later(self, open_scheduler: Open, gates: Gates) -> None:
        scheduler = open_scheduler(*agents(2))
        assert scheduler.wait_all(0) is True
        first, second = gates("first"), gates("second")
        (held,) = hold(scheduler, first)
        waits = threading.Thread(target=lambda: scheduler.wait_all(ALARM_S))
        waits.start()
        wait_until(lambda: id(held) in _watches, "it waits")
        time_out = scheduler.wait_all(0.01)
        assert time_out is False
        later = hold(scheduler, second)
        first.open()
        waits.join(ALARM_S)
        assert not waits.is_alive() and not later[0].done()
        second.open()
        check_at_rest(scheduler)

    def test_one_that_raises_our_error_for_cancelled_ones_has_failed(self, open_scheduler: Open) -> None:
        """A nested pool's, say: the call ran."""
        scheduler = open_scheduler(Agent("a"))
        task = scheduler.submit_task(Task("t", fn=tasks.raise_this, args=(TaskCancelledError, "inside")))
        assert isinstance(task.exception(ALARM_S), TaskCancelledError)
        assert (task.state, task.cancelled(), task.cancel()) == ("failed", False, False)
        metrics = check_at_rest(scheduler)
        assert (metrics["tasks"]["failed"], metrics["tasks"]["cancelled"]) == (1, 0)

    def test_is_not_waited_for_in_the_thread_that_has_to_end_it(self, open_scheduler: Open, gates: Gates) -> None:
        """Where a user's `__reduce__` runs: it would hang the scheduler."""
        scheduler = open_scheduler(Agent("a"))
        gate = gates("held")
        (held,) = hold(scheduler, gate)
        for ask in (held.result, held.exception, scheduler.wait_all):
            with pytest.raises(RuntimeError, match="scheduler's own thread"):
                scheduler._engine.call(ask)
        gate.open()
        check_at_rest(scheduler)

    def test_cancel_before_it_starts_and_not_after(self, open_scheduler: Open, gates: Gates, tmp_path: Path) -> None:
        scheduler = open_scheduler(Agent("a"))
        noted = str(tmp_path / "noted")
        gate = gates("held")
        (held,) = hold(scheduler, gate)
        kinds: list[dict[str, Any]] = [{}, {"priority": 5}, {"deadline": 100}, {"skill_requirements": ["nobody"]}]
        made = [Task("t", fn=note_and_pid, args=(noted, i % 2), **kind) for kind in kinds for i in range(6)]
        for task in made:
            scheduler.submit_task(task)
        not_looked_at = [task for i, task in enumerate(made) if i % 2]
        for task in not_looked_at[::3]:
            assert task.cancel()
        wait_taken_in(scheduler)
        for task in not_looked_at:
            assert task.cancel() is True and task.cancel() is True, "also the second time"
            assert task.cancelled() and task.done() and not task.running() and task.state == "cancelled"
            with pytest.raises(CancelledError):
                task.result(ALARM_S)
            with pytest.raises(CancelledError):
                task.exception(ALARM_S)
            assert isinstance(task._exception, TaskCancelledError)
        assert held.cancel() is False and scheduler.cancel(held.id) is False
        gate.open()
        assert held.result(ALARM_S)
        assert held.cancel() is False and scheduler.cancel(held) is False
        wait_taken_in(scheduler)
        with pytest.raises(KeyError):
            scheduler.cancel(held.id)
        scheduler.register_agent(Agent("b", ["nobody"]))
        assert check_at_rest(scheduler)["tasks"]["cancelled"] == 12
        assert lines(noted) == ["0"] * 12

    def test_cancel_of_a_task_that_is_no_ones(self) -> None:
        task = Task("t")
        assert task.cancel() is False
        assert not task.cancelled() and not task.done() and task.state == "created"

    def test_cancelled_or_run_never_both(self, open_scheduler: Open, tmp_path: Path) -> None:
        scheduler = open_scheduler(*agents(2))
        noted = str(tmp_path / "noted")
        made: list[Task] = []
        withdrawn: list[int] = []
        for i in range(600):
            task = Task("t", priority=1 + i % 5, fn=tasks.note, args=(noted, i))
            made.append(scheduler.submit_task(task))
            if i % 3 == 0 and made[i // 2].cancel():
                withdrawn.append(i // 2)
        assert scheduler.wait_all(ALARM_S)
        assert sorted(map(int, lines(noted))) == sorted(set(range(600)) - set(withdrawn))
        check_at_rest(scheduler)


class TestCallbacks:
    def test_is_called_once_with_the_task_whatever_became_of_it(self, open_scheduler: Open, gates: Gates) -> None:
        scheduler = open_scheduler(Agent("a"))
        gate = gates("held")
        (held,) = hold(scheduler, gate)
        made = [
            Task("good", fn=tasks.double, args=(1,)),
            Task("bad", fn=tasks.raise_this, args=(ValueError,)),
            Task("gone"),
            Task("follows", dependencies=[held]),
        ]
        seen: list[Any] = []
        for task in made:
            task.add_done_callback(seen.append)  # before it is submitted, too
        scheduler.submit_tasks(made)
        assert made[2].cancel()
        gate.open()
        assert scheduler.wait_all(ALARM_S)
        wait_until(lambda: len(seen) == 4, "all callbacks")
        assert set(seen) == set(made)
        made[0].add_done_callback(seen.append)
        assert seen[-1] is made[0], "at once, where it is over"

    def test_one_that_raises_is_logged_and_the_next_are_called(
        self, open_scheduler: Open, caplog: pytest.LogCaptureFixture
    ) -> None:
        scheduler = open_scheduler(Agent("a"))
        seen: list[Any] = []

        def complain(_: Any) -> NoReturn:
            raise RuntimeError("the callback is broken")

        def leave(_: Any) -> NoReturn:
            raise SystemExit

        gone = [Task("t"), Task("t")]
        gone[0].add_done_callback(complain)
        gone[0].add_done_callback(seen.append)
        gone[1].add_done_callback(leave)
        scheduler.submit_tasks(gone)
        wait_until(lambda: len(seen) == 1, "the second callback")
        after = Task("t")
        after.add_done_callback(seen.append)
        scheduler.submit_task(after)
        wait_until(lambda: len(seen) == 2, "the callback of the next task")
        errors = [r for r in caplog.records if r.levelno >= logging.ERROR and r.exc_info]
        assert [type(r.exc_info[1]) for r in errors if r.exc_info] == [RuntimeError, SystemExit]

    def test_one_that_blocks_holds_up_only_callbacks(self, open_scheduler: Open) -> None:
        scheduler = open_scheduler(*agents(2))
        entered, leave = threading.Event(), threading.Event()

        def block(_: Any) -> None:
            entered.set()
            assert leave.wait(ALARM_S)

        task = Task("t", fn=tasks.double, args=(1,))
        task.add_done_callback(block)
        scheduler.submit_task(task)
        assert entered.wait(ALARM_S)
        assert task.result(0) == 2, "it is over, as with any Future"
        for i in range(20):
            assert scheduler.submit_task(Task("t", fn=tasks.double, args=(i,))).result(ALARM_S) == 2 * i
        scheduler.register_agent(Agent("more"))
        assert scheduler.get_metrics()["agents"]["registered"] == 3
        leave.set()

    def test_one_that_submits_again_waits_and_cancels(self, open_scheduler: Open) -> None:
        scheduler = open_scheduler(*agents(2))
        done = threading.Event()
        seen: list[Any] = []

        def again(task: Any) -> None:
            seen.append(task.result())
            gone = scheduler.submit_task(Task("gone", ["nobody"]))
            assert gone.cancel()
            assert scheduler.submit_task(Task("t", fn=tasks.double, args=(2,))).result(ALARM_S) == 4
            if len(seen) < 10:
                scheduler.submit_task(Task("t", fn=tasks.double, args=(seen[-1],))).add_done_callback(again)
            else:
                done.set()

        scheduler.submit_task(Task("t", fn=tasks.double, args=(1,))).add_done_callback(again)
        assert done.wait(ALARM_S)
        assert seen == [2 << i for i in range(10)]
        check_at_rest(scheduler)

    @pytest.mark.parametrize("drain", [True, False])
    def test_one_that_stops_the_scheduler(self, open_scheduler: Open, gates: Gates, drain: bool) -> None:
        scheduler = open_scheduler(Agent("a"))
        gate = gates("held")
        ended = threading.Event()

        def stop(_: Any) -> None:
            scheduler.stop(drain=drain)
            ended.set()

        (held,) = hold(scheduler, gate)
        held.add_done_callback(stop)
        after = scheduler.submit_task(Task("after"))
        gate.open()
        assert ended.wait(ALARM_S)
        assert held.exception(0) is None
        assert after.done()
        with pytest.raises(RuntimeError, match="not running"):
            scheduler.submit_task(Task("t"))


class TestThreads:
    def test_everything_at_once_from_several_threads(self, open_scheduler: Open) -> None:
        scheduler = open_scheduler(Agent("all", ["*", "a", "b"]))
        errors: list[BaseException] = []

        def guarded(work: Callable[[int], None], number: int) -> None:
            try:
                work(number)
            except BaseException as error:
                errors.append(error)

        def submit(number: int) -> None:
            made = []
            for i in range(60):
                skills = [[], ["a"], ["b"], [f"own-{number}"]][i % 4]
                priority = 1 + i % 3 if i % 4 == 3 else 1 + i % 5
                made.append(scheduler.submit_task(Task("t", skills, priority, fn=tasks.add, args=(number, i))))
            group = [Task("t", dependencies=[made[-1].id], fn=tasks.add, args=(number, i)) for i in range(20)]
            scheduler.submit_tasks(group)
            assert [task.result(ALARM_S) for task in [*made, *group]] == [number + i for i in [*range(60), *range(20)]]

        def come_and_go(number: int) -> None:
            for i in range(6):
                scheduler.register_agent(Agent(f"{number}.{i}", ["a"]))
                scheduler.remove_agent(f"{number}.{i}")

        def look(_: int) -> None:
            for _ in range(50):
                scheduler.get_metrics()
                scheduler.rebalance()
                scheduler.request_work("all")
                assert len(repr(scheduler)) > 10
                list(map(repr, list(scheduler.tasks.values())))

        work = [(submit, i) for i in range(4)] + [(come_and_go, i) for i in range(2)] + [(look, 0)]
        threads = [threading.Thread(target=guarded, args=item) for item in work]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert check_at_rest(scheduler)["tasks"]["succeeded"] == 320

    def test_many_threads_wait_for_one_task(self, open_scheduler: Open, gates: Gates) -> None:
        scheduler = open_scheduler(Agent("a"))
        gate = gates("held")
        task = scheduler.submit_task(Task("t", fn=pass_gate, args=(gate, 7)))
        seen: list[Any] = []
        threads = [threading.Thread(target=lambda: seen.append(task.result(ALARM_S))) for _ in range(16)]
        for thread in threads:
            thread.start()
        gate.open()
        for thread in threads:
            thread.join()
        assert seen == [7] * 16

    def test_stop_from_two_threads(self, open_scheduler: Open, gates: Gates) -> None:
        scheduler = open_scheduler(*agents(2))
        gate = gates("held")
        held = hold(scheduler, gate, count=2)
        threads = [threading.Thread(target=scheduler.stop) for _ in range(3)]
        for thread in threads:
            thread.start()
        gate.open()
        for thread in threads:
            thread.join(ALARM_S)
        assert not any(thread.is_alive() for thread in threads)
        assert all(task.exception(0) is None for task in held)


class TestLife:
    def test_context_manager_drains(self, gates: Gates) -> None:
        with WorkStealingScheduler() as scheduler:
            scheduler.register_agent(Agent("a"))
            made = scheduler.submit_tasks([Task("t", fn=tasks.double, args=(i,)) for i in range(50)])
        assert [task.result(0) for task in made] == list(range(0, 100, 2))
        assert repr(scheduler) == "<WorkStealingScheduler stopped, 1 agents, 0 tasks>"

    def test_context_manager_does_not_wait_when_the_block_raises(self, gates: Gates) -> None:
        gate = gates("held")
        with pytest.raises(KeyError), WorkStealingScheduler() as scheduler:
            scheduler.register_agent(Agent("a"))
            (held,) = hold(scheduler, gate)
            raise KeyError
        assert isinstance(held.exception(0), mpsteal.PoolTerminatedError)

    def test_nothing_but_registering_works_before_the_start(self) -> None:
        scheduler = WorkStealingScheduler()
        scheduler.register_agent(Agent("a"))
        for use in (
            lambda: scheduler.submit_task(Task("t")),
            lambda: scheduler.submit_tasks([Task("t")]),
            lambda: scheduler.remove_agent("a"),
            lambda: scheduler.request_work("a"),
            lambda: scheduler.rebalance(),
        ):
            with pytest.raises(RuntimeError, match=r"not running; start\(\) it first"):
                use()
        assert repr(scheduler) == "<WorkStealingScheduler new, 1 agents, 0 tasks>"
        assert scheduler.wait_all() is True
        scheduler.stop()
        with pytest.raises(RuntimeError, match="starts once"):
            scheduler.start()

    def test_nothing_works_after_the_end(self, open_scheduler: Open) -> None:
        scheduler = open_scheduler(Agent("a"))
        assert scheduler.start() is scheduler, "once more is no error while it runs"
        scheduler.stop()
        scheduler.stop()
        for use in (
            lambda: scheduler.submit_task(Task("t")),
            lambda: scheduler.register_agent(Agent("b")),
            lambda: scheduler.remove_agent("a"),
            lambda: scheduler.rebalance(),
        ):
            with pytest.raises(RuntimeError, match="not running; make a new one"):
                use()
        with pytest.raises(RuntimeError, match="starts once"):
            scheduler.start()
        assert scheduler.wait_all() is True
        assert scheduler.agents["a"].state == "gone"

    def test_two_beside_each_other(self, open_scheduler: Open, gates: Gates) -> None:
        one, two = open_scheduler(Agent("a")), open_scheduler(Agent("a"))
        gate = gates("held")
        (held,) = hold(one, gate)
        made = two.submit_tasks([Task("t", fn=tasks.double, args=(i,)) for i in range(50)])
        assert [task.result(ALARM_S) for task in made] == list(range(0, 100, 2))
        two.stop()
        assert not held.done()
        gate.open()
        check_at_rest(one)

    def test_cannot_be_passed_between_processes(self, open_scheduler: Open) -> None:
        scheduler = open_scheduler(Agent("a"))
        with pytest.raises(NotImplementedError, match="cannot be passed between processes"):
            pickle.dumps(scheduler)
        task = Task("t", fn=tasks.double, args=(1,))
        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(task)
        failed = scheduler.submit_task(Task("t", fn=tasks.identity, args=(scheduler,)))
        assert isinstance(failed.exception(ALARM_S), NotImplementedError)
        agent = pickle.loads(pickle.dumps(Agent("b", ["x"])))
        assert (agent.agent_id, agent.capabilities) == ("b", frozenset(["x"]))


class TestWithoutStop:
    def test_one_that_is_dropped_ends_with_a_resource_warning(self) -> None:
        scheduler = WorkStealingScheduler().start()
        scheduler.register_agent(Agent("a"))
        scheduler.submit_task(Task("t", fn=tasks.double, args=(1,))).result(ALARM_S)
        wait_ready(scheduler)
        pid = scheduler.agents["a"].pid
        thread = scheduler._engine.thread
        reference = weakref.ref(scheduler)
        with pytest.warns(ResourceWarning, match="unclosed running <WorkStealingScheduler running, 1 agents"):
            del scheduler
            gc.collect()
        assert reference() is None
        thread.join(ALARM_S)
        assert not thread.is_alive() and pid is not None
        wait_gone([pid])

    def test_a_task_keeps_it_until_it_is_over(self, gates: Gates) -> None:
        """Its result is still to come; then nothing is."""
        scheduler = WorkStealingScheduler().start()
        scheduler.register_agent(Agent("a"))
        gate = gates("held")
        task = scheduler.submit_task(Task("t", fn=pass_and_pid, args=(gate,)))
        gate.wait_arrived()
        reference, thread = weakref.ref(scheduler), scheduler._engine.thread
        pid = scheduler.agents["a"].pid
        wait_taken_in(scheduler)
        del scheduler
        gc.collect()
        assert reference() is not None
        gate.open()
        assert task.result(ALARM_S) == pid

        def is_gone() -> bool:
            gc.collect()
            return reference() is None

        with pytest.warns(ResourceWarning, match="unclosed running <WorkStealingScheduler"):
            wait_until(is_gone, "the scheduler collected")
        thread.join(ALARM_S)
        assert not thread.is_alive() and pid is not None
        wait_gone([pid])
        assert task.result() == pid and task.state == "done" and task.cancel() is False

    def test_with_ends_it_when_the_wait_at_its_end_is_interrupted(
        self, gates: Gates, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gate = gates("held")

        def interrupted() -> None:
            monkeypatch.undo()
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt), WorkStealingScheduler() as scheduler:
            scheduler.register_agent(Agent("a"))
            (running, waits) = scheduler.submit_tasks(
                [Task("t", fn=pass_and_pid, args=(gate,)), Task("t", fn=pass_and_pid, args=(gate,))]
            )
            gate.wait_arrived()
            monkeypatch.setattr(scheduler._engine, "join", interrupted)
        assert {type(task.exception(0)) for task in (running, waits)} == {PoolTerminatedError}
        assert repr(scheduler).startswith("<WorkStealingScheduler stopped")

    @pytest.mark.parametrize("method", ["fork", "spawn"])
    def test_the_context_may_be_named(self, method: str) -> None:
        with WorkStealingScheduler(context=method) as scheduler:
            scheduler.register_agent(Agent("a"))
            assert scheduler.submit_task(Task("t", fn=tasks.double, args=(1,))).result(ALARM_S) == 2
            assert scheduler._ctx.get_start_method() == method

    def test_a_program_that_ends_is_told_of_calls_that_are_not_over(self, tmp_path: Path) -> None:
        """Markers are nothing that anybody misses."""
        source = """
from fault_tasks import double
from mpsteal import Agent, Task, WorkStealingScheduler

if __name__ == "__main__":
    scheduler = WorkStealingScheduler().start()
    scheduler.register_agent(Agent("a"))
    scheduler.submit_tasks([Task("t", ["nobody"], fn=double, args=(i,)) for i in range(3)] + [Task("m", ["nobody"])])
"""
        with program(tmp_path, source) as example:
            assert example.wait() == 0, example.errors
            assert example.errors.count("3 tasks of a scheduler are not over; stop() and `with` wait for them") == 1
            example.check_nothing_left()

    def test_one_that_was_stopped_or_never_started_is_dropped_in_silence(self, open_scheduler: Open) -> None:
        for scheduler in (WorkStealingScheduler(), WorkStealingScheduler().start()):
            scheduler.stop()
        new = WorkStealingScheduler()
        del scheduler, new
        gc.collect()

    @pytest.mark.parametrize("method", ["fork", "spawn"])
    def test_a_program_that_ends_while_it_works_leaves_nothing(self, tmp_path: Path, method: str) -> None:
        source = f"""
import sys, time
from multiprocessing import get_context
from gates import Gate
from fault_tasks import arrive_and_sleep
from mpsteal import Agent, Task, WorkStealingScheduler

if __name__ == "__main__":
    scheduler = WorkStealingScheduler(context=get_context({method!r})).start()
    scheduler.register_agent(Agent("a"))
    scheduler.register_agent(Agent("b"))
    gate = Gate(sys.argv[1])
    tasks = [scheduler.submit_task(Task("t", fn=arrive_and_sleep, args=(gate,))) for _ in range(5)]
    gate.wait_arrived(2)
    print("working")
"""
        with program(tmp_path, source, tmp_path / "gate") as example:
            assert example.wait() == 0, example.errors
            assert example.output == "working\n"
            example.check_nothing_left()

    def test_a_program_that_is_killed_leaves_nothing(self, tmp_path: Path) -> None:
        source = """
import sys, time
from gates import Gate
from fault_tasks import arrive_and_sleep
from mpsteal import Agent, Task, WorkStealingScheduler

scheduler = WorkStealingScheduler().start()
for name in "abc":
    scheduler.register_agent(Agent(name))
gate = Gate(sys.argv[1])
for _ in range(10):
    scheduler.submit_task(Task("t", fn=arrive_and_sleep, args=(gate,)))
gate.wait_arrived(3)
while not scheduler._engine.guard.pid:
    time.sleep(0.01)
print("working", flush=True)
time.sleep(600)
"""
        with program(tmp_path, source, tmp_path / "gate") as example:
            wait_until(lambda: example.output or example.process.poll() is not None, "it works")
            assert example.output == "working\n", example.errors
            example.meet_family()
            assert len(example.family) >= 4
            os.kill(example.process.pid, signal.SIGKILL)
            example.wait()
            example.check_nothing_left()


class TestFork:
    """The parent forks while it works: the scheduler does not notice, and the child cannot use it."""

    def test_child_is_told_the_rule(self, open_scheduler: Open) -> None:
        scheduler = open_scheduler(Agent("a"))
        uses = [
            lambda: scheduler.submit_task(Task("t")),
            lambda: scheduler.submit_tasks([Task("t")]),
            lambda: scheduler.register_agent(Agent("b")),
            lambda: scheduler.remove_agent("a"),
            lambda: scheduler.rebalance(),
        ]

        def use_it() -> None:
            for use in uses:
                with pytest.raises(RuntimeError, match="belongs to the process that started it"):
                    use()

        assert forked(use_it) == 0
        assert scheduler.submit_task(Task("t", fn=tasks.double, args=(1,))).result(ALARM_S) == 2

    @pytest.mark.parametrize("way", ["nothing", "stop", "drop", "with", "exit", "SIGKILL", "SIGTERM"])
    def test_child_that_comes_and_goes_ends_nothing(self, open_scheduler: Open, gates: Gates, way: str) -> None:
        schedulers = [open_scheduler(*agents(2))]
        wait_ready(schedulers[0])
        gate = gates("held")
        held = hold(schedulers[0], gate, count=2)
        waits = schedulers[0].submit_tasks(
            [Task("t", fn=tasks.double, args=(i,), priority=1 + i % 5) for i in range(50)]
        )
        pids = [agent.pid for agent in schedulers[0].agents.values()]

        def inside() -> None:
            if way == "stop":
                schedulers[0].stop()
                schedulers[0].stop(drain=False)
            elif way == "with":
                schedulers[0].__exit__(None, None, None)
            elif way == "drop":
                schedulers.clear()
                gc.collect()
            elif way == "exit":
                multiprocessing.util._exit_function()  # type: ignore[attr-defined]
            elif way.startswith("SIG"):
                gc.collect()
                os.kill(os.getpid(), signal.Signals[way])

        expected = -signal.Signals[way] if way.startswith("SIG") else 0
        for _ in range(3):
            assert forked(inside) == expected
        gate.open()
        assert [task.result(ALARM_S) for task in held] and [task.result(ALARM_S) for task in waits] == list(
            range(0, 100, 2)
        )
        assert [agent.pid for agent in schedulers[0].agents.values()] == pids
        check_at_rest(schedulers[0])

    def test_child_has_a_scheduler_of_its_own(self, open_scheduler: Open) -> None:
        scheduler = open_scheduler(Agent("a"))
        wait_ready(scheduler)

        def own() -> None:
            with WorkStealingScheduler() as mine:
                mine.register_agent(Agent("mine"))
                assert mine.submit_task(Task("t", fn=tasks.double, args=(4,))).result(ALARM_S) == 8

        assert forked(own) == 0
        assert scheduler.submit_task(Task("t", fn=tasks.double, args=(1,))).result(ALARM_S) == 2


class TestStartMethods:
    def test_the_whole_way(self, open_scheduler: Open, gates: Gates, start_method: str) -> None:
        """Skills, priorities, a dependency, a deadline, a removal: with agents of every kind."""
        scheduler = open_scheduler(Agent("python", ["python"]), Agent("both", ["python", "sql"]), method=start_method)
        gate = gates("held")
        held = scheduler.submit_task(Task("held", ["sql"], fn=pass_and_pid, args=(gate,)))
        gate.wait_arrived()
        first = Task("first", ["python"], 5, fn=tasks.double, args=(20,))
        second = Task("second", ["python"], 1, fn=tasks.add, args=(first, 2), deadline=300)
        rest = [Task(str(i), ["python"], 1 + i % 5, fn=tasks.my_pid) for i in range(30)]
        scheduler.submit_tasks([second, *rest, first])
        assert second.result(ALARM_S) == 42
        pid = scheduler.agents["python"].pid
        assert {task.result(ALARM_S) for task in rest} == {pid}
        scheduler.remove_agent("python")
        wait_gone_for_good(scheduler, 1)
        gate.open()
        assert held.result(ALARM_S) == scheduler.agents["both"].pid
        assert scheduler.submit_task(Task("t", ["python"], fn=tasks.my_pid)).result(ALARM_S) == held.result()
        check_at_rest(scheduler)

    def test_a_date_with_a_zone_and_one_without(self, open_scheduler: Open) -> None:
        scheduler = open_scheduler(Agent("a"))
        for now in (datetime.datetime.now(), datetime.datetime.now(datetime.timezone.utc)):
            task = Task("t", deadline=now + datetime.timedelta(minutes=1))
            assert scheduler.submit_task(task).result(ALARM_S) is None
            assert not task.deadline_missed
