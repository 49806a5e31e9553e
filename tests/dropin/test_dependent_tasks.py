"""Tasks that wait for each other run as they do on the stock pool.

A pool that hands out several tasks at once, or ties a task to the process it was first given to,
hangs here: the task that is waited for lies behind the one that waits. Nothing sleeps; tasks are
held by gates and meet at barriers. Each pattern runs on a young pool and on one that has done
5,000 no-ops, since a pool that adapts to short tasks may only then begin to hand out many.
"""

from __future__ import annotations

import multiprocessing
from typing import Any

import dropin_tasks as tasks
import pytest
from dropin_pools import START_METHODS
from dropin_tasks import ALARM_S
from gates import Gates, pass_gate

pytestmark = [
    pytest.mark.parametrize("method", START_METHODS),
    pytest.mark.parametrize("warm", [False, True], ids=["young", "after 5000"]),
]

AGENTS = 4


def _warm_up(pool: Any, warm: bool) -> None:
    if warm:
        for handle in [pool.apply_async(tasks.noop, (i,)) for i in range(5000)]:
            assert handle.get(ALARM_S) is None


def test_listener_waits_for_tasks_submitted_after_it(fresh: Any, method: str, warm: bool) -> None:
    """One task reads a queue that tasks behind it fill, a common way to write one file."""
    n = 40
    queue = multiprocessing.get_context(method).Queue()
    pool = fresh(method, 2, initializer=tasks.remember_pair, initargs=("queue", queue))
    _warm_up(pool, warm)
    listener = pool.apply_async(tasks.listen, (n,))
    senders = [pool.apply_async(tasks.send, (i,)) for i in range(n)]
    assert sorted(listener.get(ALARM_S)) == list(range(n))
    assert [sender.get(ALARM_S) for sender in senders] == list(range(n))
    pool.close()
    pool.join()
    queue.close()
    queue.join_thread()


@pytest.mark.parametrize("call", ["apply_async", "map_async", "imap_unordered"])
def test_as_many_tasks_as_agents_meet_at_a_barrier(fresh: Any, method: str, warm: bool, call: str) -> None:
    barrier = multiprocessing.get_context(method).Barrier(AGENTS)
    pool = fresh(method, AGENTS, initializer=tasks.remember_pair, initargs=("barrier", barrier))
    _warm_up(pool, warm)
    for _ in range(3):
        if call == "apply_async":
            handles = [pool.apply_async(tasks.meet, (i,)) for i in range(AGENTS)]
            pids = [handle.get(ALARM_S) for handle in handles]
        elif call == "map_async":
            pids = pool.map_async(tasks.meet, range(AGENTS), 1).get(ALARM_S)
        else:
            found = pool.imap_unordered(tasks.meet, range(AGENTS))
            pids = [found.next(ALARM_S) for _ in range(AGENTS)]
        assert len(set(pids)) == AGENTS


def test_short_tasks_behind_a_long_one_go_on(fresh: Any, method: str, warm: bool, gates: Gates) -> None:
    pool = fresh(method, 2)
    _warm_up(pool, warm)
    gate = gates()
    long = pool.apply_async(pass_gate, (gate, "long"))
    short = [pool.apply_async(tasks.square, (i,)) for i in range(300)]
    gate.wait_arrived()
    assert [handle.get(ALARM_S) for handle in short] == [i * i for i in range(300)]
    assert not long.ready()
    gate.release()
    assert long.get(ALARM_S) == "long"


def test_short_items_behind_a_long_one_in_one_map_go_on(fresh: Any, method: str, warm: bool, gates: Gates) -> None:
    pool = fresh(method, 2)
    _warm_up(pool, warm)
    gate = gates()
    items = [(gate, 0), *((None, i) for i in range(1, 300))]
    found = pool.imap_unordered(tasks.hold_or_square, items)
    assert sorted(found.next(ALARM_S) for _ in range(299)) == [i * i for i in range(1, 300)]
    with pytest.raises(multiprocessing.TimeoutError):
        found.next(0.01)
    gate.release()
    assert found.next(ALARM_S) == 0


def test_short_result_is_delivered_while_its_agent_is_busy(fresh: Any, method: str, warm: bool, gates: Gates) -> None:
    """With one agent, the short task's process goes straight on to the long one."""
    pool = fresh(method, 1)
    _warm_up(pool, warm)
    gate = gates()
    called: list[int] = []
    short = [pool.apply_async(tasks.square, (i,), callback=called.append) for i in range(10)]
    long = pool.apply_async(pass_gate, (gate, "long"))
    gate.wait_arrived()
    assert [handle.get(ALARM_S) for handle in short] == [i * i for i in range(10)]
    assert called == [i * i for i in range(10)]
    assert not long.ready()
    gate.release()
    assert long.get(ALARM_S) == "long"


def test_callback_is_called_for_a_result_nobody_waits_for(fresh: Any, method: str, warm: bool, gates: Gates) -> None:
    """As above, but no thread is in `get`: the callback alone must be enough."""
    pool = fresh(method, 1)
    _warm_up(pool, warm)
    gate, called = gates("long"), gates("called")
    pool.apply_async(tasks.square, (3,), callback=lambda _: called.arrive())
    long = pool.apply_async(pass_gate, (gate, "long"))
    gate.wait_arrived()
    called.wait_arrived()
    assert not long.ready()
    gate.release()
    assert long.get(ALARM_S) == "long"


def test_task_waits_for_one_submitted_when_it_runs(fresh: Any, method: str, warm: bool, gates: Gates) -> None:
    """The one waited for does not exist yet when the waiting one starts, and comes behind many."""
    pool = fresh(method, 2)
    _warm_up(pool, warm)
    gate = gates()
    waiting = pool.apply_async(pass_gate, (gate, "waited"))
    gate.wait_arrived()
    between = [pool.apply_async(tasks.square, (i,)) for i in range(100)]
    opening = pool.apply_async(tasks.open_gate, (gate,))
    assert waiting.get(ALARM_S) == "waited"
    assert opening.get(ALARM_S) is None
    assert [handle.get(ALARM_S) for handle in between] == [i * i for i in range(100)]
