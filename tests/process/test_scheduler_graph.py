"""Dependencies: who waits for whom, what travels along, and what a failure takes with it."""

from __future__ import annotations

import operator
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import fault_tasks as tasks
import pytest
from gates import Gates, pass_gate
from scheduler_tasks import agents, check_at_rest, hold, note_and_pid, wait_taken_in
from waiting import ALARM_S, lines, wait_until

from mpsteal import Agent, AgentDiedError, DependencyError, Task, TaskCancelledError, WorkStealingScheduler

Open = Callable[..., WorkStealingScheduler]


class TestDependencies:
    def test_a_task_runs_after_all_that_it_names(self, open_scheduler: Open, gates: Gates, tmp_path: Path) -> None:
        scheduler = open_scheduler(*agents(3))
        noted = str(tmp_path / "noted")
        gate = gates("held")
        first = [Task(str(i), fn=pass_gate, args=(gate, i)) for i in range(2)]
        third = Task("third", fn=tasks.note, args=(noted, "third"))
        last = Task("last", dependencies=[*first, third], priority=5, fn=tasks.note, args=(noted, "last"))
        scheduler.submit_tasks([last, third, *first])
        gate.wait_arrived(2)
        assert third.result(ALARM_S) == "third"
        assert last.state == "waiting"
        gate.release()
        wait_until(lambda: any(task.done() for task in first), "one of them over")
        wait_taken_in(scheduler)
        assert last.state == "waiting" and lines(noted) == ["third"]
        gate.open()
        assert last.result(ALARM_S) == "last"
        started = last.started_at
        assert started is not None
        assert all((task.completed_at or 0) <= started for task in [*first, third])
        check_at_rest(scheduler)

    def test_random_graphs_run_in_an_order_that_is_right(self, open_scheduler: Open, tmp_path: Path) -> None:
        scheduler = open_scheduler(*agents(2))
        noted = str(tmp_path / "noted")
        chance = random.Random(7)
        made: list[Task] = []
        needs: dict[int, list[int]] = {}
        for i in range(400):
            needs[i] = chance.sample(range(i), min(i, chance.randrange(0, 4)))
            named = [made[j] if chance.random() < 0.5 else made[j].id for j in needs[i]]
            made.append(Task(str(i), (), chance.randrange(1, 6), named, fn=note_and_pid, args=(noted, i)))
        shuffled = made[:]
        chance.shuffle(shuffled)
        scheduler.submit_tasks(shuffled)
        assert scheduler.wait_all(ALARM_S)
        order = {int(line): at for at, line in enumerate(lines(noted))}
        assert len(order) == 400
        wrong = [(i, j) for i, wanted in needs.items() for j in wanted if order[j] > order[i]]
        assert wrong == []
        check_at_rest(scheduler)

    def test_markers_join_what_comes_before(self, open_scheduler: Open) -> None:
        """A task without a function ends when an agent reaches it."""
        scheduler = open_scheduler(*agents(2))
        work = [Task(str(i), fn=tasks.double, args=(i,)) for i in range(50)]
        done = Task("all done", dependencies=work)
        scheduler.submit_tasks([*work, done])
        assert done.result(ALARM_S) is None
        assert all(task.done() for task in work)
        assert done.agent_id in ("agent-0", "agent-1")
        check_at_rest(scheduler)

    def test_a_task_may_be_named_twice(self, open_scheduler: Open) -> None:
        scheduler = open_scheduler(Agent("a"))
        first = Task("first", fn=tasks.double, args=(1,))
        second = Task("second", dependencies=[first, first.id, first], fn=tasks.add, args=(first, first))
        scheduler.submit_tasks([first, second])
        assert second.result(ALARM_S) == 4
        check_at_rest(scheduler)


class TestResultsAsArguments:
    def test_an_argument_that_is_a_task_stands_for_its_result(self, open_scheduler: Open) -> None:
        scheduler = open_scheduler(*agents(2))
        one = Task("one", fn=tasks.double, args=(5,))
        two = Task("two", fn=int, args=("32",), kwargs={"base": one})
        both = Task("both", fn=tasks.add, args=(one,), kwargs={"b": two})
        scheduler.submit_tasks([both, two, one])
        assert one.result(ALARM_S) == 10
        assert two.result(ALARM_S) == 32
        assert both.result(ALARM_S) == 42
        check_at_rest(scheduler)

    def test_also_one_that_is_over_already(self, open_scheduler: Open) -> None:
        scheduler = open_scheduler(Agent("a"))
        one = scheduler.submit_task(Task("one", fn=tasks.double, args=(5,)))
        assert one.result(ALARM_S) == 10
        assert scheduler.submit_task(Task("two", fn=tasks.double, args=(one,))).result(ALARM_S) == 20

    def test_inside_of_another_object_it_does_not_and_says_so(self, open_scheduler: Open) -> None:
        scheduler = open_scheduler(Agent("a"))
        one = scheduler.submit_task(Task("one", fn=tasks.double, args=(5,)))
        hidden = scheduler.submit_task(Task("hidden", fn=sum, args=([one],)))
        error = hidden.exception(ALARM_S)
        assert isinstance(error, TypeError)
        assert "as an argument of another task it stands for its result, but not inside of another object" in str(error)
        check_at_rest(scheduler)

    def test_a_result_that_cannot_travel_fails_only_who_wants_it(self, open_scheduler: Open) -> None:
        scheduler = open_scheduler(Agent("a"))
        bad = scheduler.submit_task(Task("bad", fn=tasks.make_not_for_travel))
        error = bad.exception(ALARM_S)
        assert error is not None
        follows = scheduler.submit_task(Task("follows", fn=tasks.identity, args=(bad,)))
        assert isinstance(follows.exception(ALARM_S), DependencyError)
        check_at_rest(scheduler)

    def test_the_arguments_that_users_see_stay_as_they_were(self, open_scheduler: Open) -> None:
        scheduler = open_scheduler(Agent("a"))
        one = Task("one", fn=tasks.double, args=(5,))
        two = Task("two", fn=tasks.double, args=(one,))
        scheduler.submit_tasks([one, two])
        assert two.result(ALARM_S) == 20
        assert two.args == (one,)


class TestFailure:
    def test_a_failed_one_fails_its_dependents_naming_the_root_through_chains_and_diamonds(
        self, open_scheduler: Open, tmp_path: Path
    ) -> None:
        scheduler = open_scheduler(*agents(2))
        noted = str(tmp_path / "noted")
        root = Task("root", fn=tasks.raise_this, args=(ValueError, "no such file"))
        good = Task("good", fn=tasks.double, args=(1,))
        left = Task("left", dependencies=[root], fn=note_and_pid, args=(noted, "left"))
        right = Task("right", dependencies=[root.id, good], fn=note_and_pid, args=(noted, "right"))
        join = Task("join", dependencies=[left, right], priority=5)
        end = Task("end", fn=tasks.identity, args=(join,), deadline=100)
        apart = Task("apart", dependencies=[good], fn=tasks.double, args=(2,))
        scheduler.submit_tasks([end, join, right, left, apart, good, root])
        for task in (left, right, join, end):
            error = task.exception(ALARM_S)
            assert isinstance(error, DependencyError), task
            assert (error.task, error.task_id) == (task.name, task.id)
            assert (error.root, error.root_id, error.reason) == ("root", root.id, "ValueError: no such file")
            assert error.__cause__ is root.exception()
            assert task.state == "failed" and task.started_at is None
        assert (apart.result(ALARM_S), good.result()) == (4, 2)
        assert lines(noted) == []
        assert check_at_rest(scheduler)["tasks"]["failed"] == 5

    @pytest.mark.parametrize(
        ("crash", "kind"), [(tasks.die_at_once, AgentDiedError), (tasks.exit_with, SystemExit)], ids=["dies", "exits"]
    )
    def test_however_it_failed(
        self, open_scheduler: Open, crash: Callable[..., None], kind: type[BaseException]
    ) -> None:
        scheduler = open_scheduler(Agent("a"))
        root = Task("root", fn=crash, args=(3,))
        follows = Task("follows", dependencies=[root])
        scheduler.submit_tasks([root, follows])
        error = follows.exception(ALARM_S)
        assert isinstance(error, DependencyError) and isinstance(error.__cause__, kind)
        check_at_rest(scheduler)

    @pytest.mark.parametrize("fails", [tasks.raise_broken_str, tasks.raise_exiting_str])
    def test_with_an_exception_that_has_no_words(self, open_scheduler: Open, fails: Callable[[], None]) -> None:
        """Its `__str__` runs in the parent, and must not end more than this."""
        scheduler = open_scheduler(Agent("a"))
        root = Task("root", fn=fails)
        follows = Task("follows", dependencies=[root])
        scheduler.submit_tasks([root, follows])
        error = follows.exception(ALARM_S)
        assert isinstance(error, DependencyError)
        assert str(error)
        assert scheduler.submit_task(Task("next", fn=tasks.double, args=(1,))).result(ALARM_S) == 2
        check_at_rest(scheduler)

    def test_one_that_depends_on_what_had_failed_before_fails_at_once(self, open_scheduler: Open) -> None:
        scheduler = open_scheduler(*agents(1))
        root = Task("root", fn=tasks.identity, args=(tasks.NotForTravel(),))
        scheduler.submit_task(root)
        assert isinstance(root.exception(ALARM_S), TypeError)
        by_object = scheduler.submit_task(Task("by object", dependencies=[root]))
        by_id = scheduler.submit_task(Task("by id", dependencies=[root.id]))
        for task in (by_object, by_id):
            error = task.exception(ALARM_S)
            assert isinstance(error, DependencyError) and error.root_id == root.id
            assert "TypeError" in error.reason
        assert by_object.exception().__cause__ is root.exception()
        assert by_id.exception().__cause__ is None, "an error is not kept for those who may ask later"
        after_that = scheduler.submit_task(Task("after", dependencies=[by_id.id]))
        error = after_that.exception(ALARM_S)
        assert isinstance(error, DependencyError)
        assert error.root_id == root.id, "the root, not what came between"

    def test_a_chain_of_10_000_whose_head_fails(self, open_scheduler: Open, gates: Gates) -> None:
        scheduler = open_scheduler(*agents(2))
        gate = gates("held")
        head = Task("head", fn=fail_at_gate, args=(gate,))
        chain = [head]
        for i in range(10_000):
            chain.append(Task(f"link-{i}", dependencies=[chain[-1]]))
        scheduler.submit_tasks(chain)
        gate.wait_arrived()
        wait_taken_in(scheduler)
        assert scheduler.get_metrics()["tasks"]["unfinished"] == 10_001
        gate.open()
        error = chain[-1].exception(ALARM_S)
        assert isinstance(error, DependencyError) and error.root_id == head.id
        assert all(type(task.exception(ALARM_S)) is DependencyError for task in chain[1:])
        assert check_at_rest(scheduler)["tasks"]["failed"] == 10_001

    def test_a_chain_of_10_000_that_succeeds(self, open_scheduler: Open) -> None:
        """Each link is run after the one before; from the last to the first as they are submitted."""
        scheduler = open_scheduler(Agent("a"), Agent("b"))
        chain = [Task("0", fn=operator.index, args=(0,))]
        for i in range(1, 2_000):
            chain.append(Task(str(i), fn=operator.add, args=(chain[-1], 1)))
        scheduler.submit_tasks(chain[::-1])
        assert chain[-1].result(ALARM_S) == 1_999
        check_at_rest(scheduler)

    def test_one_root_with_10_000_dependents(self, open_scheduler: Open, gates: Gates) -> None:
        scheduler = open_scheduler(*agents(2))
        gate = gates("held")
        root = Task("root", fn=pass_gate, args=(gate, 1))
        many = [Task(str(i), dependencies=[root]) for i in range(10_000)]
        scheduler.submit_tasks([root, *many])
        gate.wait_arrived()
        gate.open()
        assert scheduler.wait_all(ALARM_S)
        assert check_at_rest(scheduler)["tasks"]["succeeded"] == 10_001


class TestRefused:
    def test_a_cycle_is_refused_at_submit_and_nothing_is_submitted(self, open_scheduler: Open) -> None:
        scheduler = open_scheduler(Agent("a"))
        a, b, c, apart = (Task(name) for name in ("a", "b", "c", "apart"))
        a.dependencies, b.dependencies, c.dependencies = (c.id,), (a,), (b.id,)
        with pytest.raises(ValueError, match="depend on each other in a circle") as caught:
            scheduler.submit_tasks([apart, a, b, c])
        for task in (a, b, c):
            assert f"{task.id} ({task.name!r})" in str(caught.value)
        assert "apart" not in str(caught.value)
        self._nothing_submitted(scheduler, a, b, c, apart)
        c.dependencies = ()
        scheduler.submit_tasks([apart, a, b, c])
        assert scheduler.wait_all(ALARM_S)

    def test_itself(self, open_scheduler: Open) -> None:
        scheduler = open_scheduler(Agent("a"))
        for named in ("object", "id"):
            task = Task("a")
            task.dependencies = (task,) if named == "object" else (task.id,)
            with pytest.raises(ValueError):
                scheduler.submit_task(task)
            with pytest.raises(ValueError, match="in a circle"):
                scheduler.submit_tasks([task])
            self._nothing_submitted(scheduler, task)

    def test_an_unknown_id(self, open_scheduler: Open) -> None:
        scheduler = open_scheduler(Agent("a"))
        unknown = Task("never submitted")
        first = Task("first")
        task = Task("task", dependencies=[first, unknown.id])
        with pytest.raises(ValueError, match=f"'task' depends on {unknown.id}, which is no task of this scheduler"):
            scheduler.submit_tasks([first, task])
        self._nothing_submitted(scheduler, first, task)
        with pytest.raises(ValueError, match="no task of this scheduler"):
            scheduler.submit_task(Task("task", dependencies=[10**9]))
        self._nothing_submitted(scheduler, first, task)
        scheduler.submit_tasks([unknown, first, task])
        assert task.result(ALARM_S) is None

    def test_a_task_that_was_not_submitted_here(self, open_scheduler: Open) -> None:
        scheduler, other = open_scheduler(Agent("a")), open_scheduler(Agent("b"))
        elsewhere = other.submit_task(Task("elsewhere"))
        for stranger in (Task("never"), elsewhere):
            for task in (Task("t", dependencies=[stranger]), Task("t", fn=tasks.double, args=(stranger,))):
                with pytest.raises(ValueError, match="which was not submitted here"):
                    scheduler.submit_task(task)
                self._nothing_submitted(scheduler, task)

    def test_what_is_no_task(self, open_scheduler: Open) -> None:
        scheduler = open_scheduler(Agent("a"))
        for wrong in ("first", None, 1.5):
            task = Task("t", dependencies=[wrong])
            with pytest.raises(TypeError, match="a dependency is a task or the id of one"):
                scheduler.submit_task(task)
            with pytest.raises(TypeError, match="a dependency is a task or the id of one"):
                scheduler.submit_tasks([task])
            self._nothing_submitted(scheduler, task)

    def test_the_same_task_twice(self, open_scheduler: Open, gates: Gates) -> None:
        scheduler = open_scheduler(Agent("a"))
        task, other = Task("t"), Task("other")
        with pytest.raises(ValueError, match="the same task is there twice"):
            scheduler.submit_tasks([task, other, task])
        self._nothing_submitted(scheduler, task, other)
        scheduler.submit_task(task)
        with pytest.raises(ValueError, match="was submitted before"):
            scheduler.submit_tasks([other, task])
        assert other.state == "created"
        assert task.result(ALARM_S) is None
        with pytest.raises(ValueError, match="was submitted before"):
            scheduler.submit_task(task)
        assert check_at_rest(scheduler)["tasks"]["submitted"] == 1

    def _nothing_submitted(self, scheduler: WorkStealingScheduler, *made: Task) -> None:
        wait_taken_in(scheduler)
        assert not scheduler.tasks
        assert scheduler.get_metrics()["tasks"]["submitted"] == 0
        assert {task.state for task in made} <= {"created"}


class TestFinishedDependency:
    def test_by_id_and_by_object(self, open_scheduler: Open) -> None:
        scheduler = open_scheduler(Agent("a"))
        first = scheduler.submit_task(Task("first", fn=tasks.double, args=(1,)))
        assert first.result(ALARM_S) == 2
        wait_taken_in(scheduler)
        assert first.id not in scheduler.tasks
        for named in (first, first.id):
            task = scheduler.submit_task(Task("t", dependencies=[named], fn=tasks.double, args=(2,)))
            assert task.result(ALARM_S) == 4
        check_at_rest(scheduler)

    def test_an_id_is_forgotten_after_so_many_and_an_object_is_not(self, open_scheduler: Open) -> None:
        scheduler = open_scheduler(Agent("a"), metrics__keep_finished=10)
        first = scheduler.submit_task(Task("first"))
        later = [scheduler.submit_task(Task("t")) for _ in range(2_000)]
        assert scheduler.wait_all(ALARM_S)
        wait_taken_in(scheduler)
        scheduler.submit_task(Task("t", dependencies=[later[-1].id, first])).result(ALARM_S)
        for _ in range(20):  # however many of the others were settled at once
            scheduler.submit_task(Task("t")).result(ALARM_S)
        with pytest.raises(ValueError, match=r"forgotten: metrics\.keep_finished"):
            scheduler.submit_task(Task("t", dependencies=[first.id]))
        assert scheduler.submit_task(Task("t", dependencies=[first])).result(ALARM_S) is None

    def test_named_by_id_just_while_it_ends(self, open_scheduler: Open) -> None:
        """Whatever the moment: it is known as unfinished or as finished, never as neither."""
        scheduler = open_scheduler(*agents(2))
        until = time.monotonic() + 0.7
        errors: list[BaseException] = []

        def submit() -> None:
            try:
                while time.monotonic() < until:
                    first = scheduler.submit_task(Task("first"))
                    for _ in range(10):
                        scheduler.submit_task(Task("next", dependencies=[first.id]))
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=submit) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        metrics = check_at_rest(scheduler)
        assert metrics["tasks"]["succeeded"] == metrics["tasks"]["submitted"]


class TestCancel:
    def test_of_a_waiting_task_and_its_dependents(self, open_scheduler: Open, gates: Gates, tmp_path: Path) -> None:
        scheduler = open_scheduler(Agent("a"))
        noted = str(tmp_path / "noted")
        gate = gates("held")
        (held,) = hold(scheduler, gate)
        first = Task("first", dependencies=[held], fn=note_and_pid, args=(noted, "first"))
        second = Task("second", dependencies=[first], fn=note_and_pid, args=(noted, "second"))
        third = Task("third", dependencies=[second, held])
        apart = Task("apart", dependencies=[held], fn=note_and_pid, args=(noted, "apart"))
        scheduler.submit_tasks([first, second, third, apart])
        wait_taken_in(scheduler)
        assert first.cancel() and first.cancelled() and first.state == "cancelled"
        for task in (second, third):
            error = task.exception(ALARM_S)
            assert isinstance(error, DependencyError)
            assert error.root_id == first.id and "TaskCancelledError" in error.reason
            assert isinstance(error.__cause__, TaskCancelledError)
            assert not task.cancel() and not task.cancelled()
        gate.open()
        assert apart.result(ALARM_S)
        assert held.exception() is None
        assert lines(noted) == ["apart"]
        tasks_now = check_at_rest(scheduler)["tasks"]
        assert (tasks_now["cancelled"], tasks_now["failed"], tasks_now["succeeded"]) == (1, 2, 2)

    def test_of_one_that_others_wait_for_and_that_is_queued(self, open_scheduler: Open, gates: Gates) -> None:
        scheduler = open_scheduler(Agent("a"))
        gate = gates("held")
        hold(scheduler, gate)
        queued = scheduler.submit_task(Task("queued", fn=tasks.double, args=(1,)))
        follows = [scheduler.submit_task(Task("f", dependencies=[queued])) for _ in range(3)]
        wait_taken_in(scheduler)
        assert scheduler.cancel(queued.id)
        assert all(isinstance(task.exception(ALARM_S), DependencyError) for task in follows)
        gate.open()
        check_at_rest(scheduler)


def fail_at_gate(gate: object) -> None:
    gate.wait()  # type: ignore[attr-defined]
    raise ValueError("the head failed")
