"""What the tests of the scheduler share: task functions that any agent can import, and ways to look at a scheduler.

Every spawned agent imports this file, so it imports no more than tasks need: pytest and the engine take 0.2 s.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fault_tasks import identity, note
from gates import Gate
from waiting import lines, wait_until

import mpsteal

if TYPE_CHECKING:
    import pytest

    from mpsteal import Agent, Task, WorkStealingScheduler

# -- in an agent ------------------------------------------------------------------------------------------------------


def note_and_pid(path: str, name: Any) -> int:
    """Note `name`; the process that ran this."""
    note(path, name)
    return os.getpid()


def note_pid_and_spin(path: str, number: int, spin_s: float) -> int:
    """Note `number` and the process that runs this, then compute for a while."""
    note(path, f"{number} {os.getpid()}")
    until = time.monotonic() + spin_s
    while time.monotonic() < until:
        pass
    return number


def note_and_pass(path: str, name: Any, gate: Gate) -> int:
    """Note `name`, then wait at the gate; the process that ran this."""
    note(path, name)
    gate.wait()
    return os.getpid()


def pass_and_pid(gate: Gate) -> int:
    """Wait at the gate; the process that ran this."""
    gate.wait()
    return os.getpid()


def start_sleeper_and_stay(path: str, gate: Gate) -> None:
    """Note the number of a process that this one starts, and stay."""
    note(path, subprocess.Popen(["sleep", "600"]).pid)
    gate.arrive()
    time.sleep(600)


def die_the_first_time(path: str) -> int:
    """Ends its process unless it has run before; how often it has run."""
    note(path, os.getpid())
    times = len(lines(path))
    if times == 1:
        os._exit(1)
    return times


class PickledAtGate:
    """A value that waits at a gate while it is pickled: the task is over, and its result is not there yet."""

    def __init__(self, gate: Gate, value: Any) -> None:
        self.gate, self.value = gate, value

    def __reduce__(self) -> Any:
        self.gate.wait()
        return identity, (self.value,)


class LoadedAtGate:
    """A value that stays at a gate while it is unpickled: the task has been claimed, and its call has not begun."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    def __reduce__(self) -> Any:
        return pass_and_pid, (self.gate,)


def result_at_gate(gate: Gate, value: Any) -> PickledAtGate:
    return PickledAtGate(gate, value)


# -- in the test ------------------------------------------------------------------------------------------------------


def agents(count: int, *capabilities: str) -> list[Agent]:
    """Agents named "agent-0" and so on, all with the same capabilities."""
    return [mpsteal.Agent(f"agent-{i}", capabilities) for i in range(count)]


def wait_ready(scheduler: WorkStealingScheduler) -> None:
    """Wait until every agent has said hello and is at rest."""
    rows = scheduler._engine.status
    wait_until(
        lambda: all(_pids(scheduler)) and all(row["parked"] for row in rows() if row["pid"]), "all agents parked"
    )


def _pids(scheduler: WorkStealingScheduler) -> list[int | None]:
    return [agent.pid for agent in list(scheduler.agents.values())]


def wait_taken_in(scheduler: WorkStealingScheduler) -> None:
    """Wait until the engine has dealt with everything that was submitted or asked before this call: a call is answered
    in the middle of a turn, so the second answer proves the end of the first one's turn."""
    for _ in range(2):
        scheduler._engine.call(lambda: None)


def hold(scheduler: WorkStealingScheduler, gate: Gate, skills: tuple[str, ...] = (), count: int = 1) -> list[Task]:
    """Have `count` agents stay inside a task each, until the gate lets them go."""
    held = [
        scheduler.submit_task(mpsteal.Task(f"hold-{i}", skills, fn=pass_and_pid, args=(gate,))) for i in range(count)
    ]
    gate.wait_arrived(count)
    wait_taken_in(scheduler)
    return held


def told(caplog: pytest.LogCaptureFixture, words: str) -> list[str]:
    """What the package has logged that has these words in it."""
    return [r.getMessage() for r in caplog.records if r.name == "mpsteal" and words in r.getMessage()]


def wait_gone_for_good(scheduler: WorkStealingScheduler, left: int) -> None:
    """Wait until only so many agents are left, those that are leaving included."""
    wait_until(lambda: len(scheduler._dispatcher.roster.records) == left, f"{left} agents left")


def forked(inside: Callable[[], Any]) -> int:
    """Run `inside` in a forked child; its exit code."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)  # a child that hangs must not outlive the test
        code = 99
        try:
            inside()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def queued_at(scheduler: WorkStealingScheduler, agent_id: str) -> list[Task]:
    """Tasks queued at an agent and not started, in the order of its ranges. While nobody moves."""
    slot = scheduler.agents[agent_id]._slot
    engine = scheduler._engine
    return [engine.dispatcher.pages.sink_of(i) for lo, hi in engine.deques.ranges(slot) for i in range(lo, hi)]


def check_at_rest(scheduler: WorkStealingScheduler) -> dict[str, Any]:
    """I6: when nothing is in flight, deques, queue lengths, metrics and the engine's own books agree. Returns the
    metrics."""
    assert scheduler.wait_all(60)
    wait_taken_in(scheduler)
    scheduler._engine.validate()
    dispatcher = scheduler._dispatcher
    metrics = scheduler.get_metrics()
    tasks = metrics["tasks"]
    assert tasks["submitted"] == tasks["succeeded"] + tasks["failed"] + tasks["cancelled"]
    assert tasks["unfinished"] == tasks["queued"] == tasks["running"] == tasks["held"] == 0
    assert not scheduler.tasks
    assert not any(dispatcher.unmatched.values()) and not dispatcher.overflow and not dispatcher.inflight
    assert not dispatcher.limits.watched and not dispatcher.limits.ending
    for agent_id, agent in scheduler.agents.items():
        assert agent.queue_length == 0 and agent.current_task is None, agent_id
        if agent.state != "gone":
            assert metrics["per_agent"][agent_id]["queue_length"] == 0
    return metrics
