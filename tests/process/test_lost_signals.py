"""A signal that the waiting thread is not told of: it comes on the way into a wait, or another thread takes it.

Both leave the same: the interpreter knows of it, and the main thread sleeps on. Here it is a helper that takes it,
since that can be had each time: the main thread blocks the signal, and the helper, which does not, sends it to itself.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from gates import Gate, pass_gate
from waiting import wait_until

import mpsteal
from mpsteal._engine import callbacks, future, waits


class LostSignal:
    """Sends SIGINT to itself once somebody has waited for one part in vain.

    Attributes:
        is_meant: whether waits of the main thread count by now. A pool that takes its time to start is waited for in
            parts, too.
    """

    def __init__(self) -> None:
        self.is_meant = False
        self._waited = threading.Event()
        self._real = waits.in_parts
        self._thread = threading.Thread(target=self._send)
        self._thread.start()

    def in_parts(self, timeout: float | None) -> Iterator[float]:
        """As the real ones, and tells of the second and all after."""
        for count, part in enumerate(self._real(timeout)):
            if count >= 1 and self.is_meant and threading.current_thread() is threading.main_thread():
                self._waited.set()
            yield part

    def _send(self) -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        self._waited.wait()
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    def end(self) -> None:
        """Its thread has ended."""
        self._waited.set()
        self._thread.join()


@pytest.fixture
def lost_signal(monkeypatch: pytest.MonkeyPatch) -> Iterator[LostSignal]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    sender = LostSignal()
    for module in (waits, future, callbacks):
        monkeypatch.setattr(module, "in_parts", sender.in_parts)
    yield sender
    sender.end()
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def wait_for_join(pool: Any, gate: Gate) -> None:
    pool.apply_async(pass_gate, (gate,))
    pool.close()
    pool.join()


def wait_for_another_reader(pool: Any, gate: Gate) -> None:
    """Of an iterator whose chunks have several items: one thread at a time."""
    read = pool.imap(pass_gate, [gate] * 4, 2)
    first = threading.Thread(target=lambda: next(read))
    first.start()
    gate.wait_arrived()
    wait_until(read._reading.locked, "the first reads")
    try:
        next(read)
    finally:
        gate.open()
        first.join()


def wait_for_the_engine(pool: Any, gate: Gate) -> None:
    """It answers a cancellation once it has come to it."""
    held = pool.apply_async(pass_gate, (gate,))
    inside = threading.Event()
    free = threading.Event()
    pool._engine.call_nowait(lambda: (inside.set(), free.wait()))
    inside.wait()
    try:
        held.cancel()
    finally:
        free.set()


WAYS: dict[str, Callable[[Any, Gate], Any]] = {
    "map": lambda pool, gate: pool.map(pass_gate, [gate] * 2),
    "get": lambda pool, gate: pool.apply_async(pass_gate, (gate,)).get(),
    "get with a limit": lambda pool, gate: pool.apply_async(pass_gate, (gate,)).get(1000),
    "imap": lambda pool, gate: next(pool.imap(pass_gate, [gate])),
    "join": wait_for_join,
    "next, where another reads": wait_for_another_reader,
    "cancel": wait_for_the_engine,
}


@pytest.mark.parametrize("way", WAYS)
def test_pool_wakes(way: str, lost_signal: LostSignal, gates: Callable[..., Gate]) -> None:
    gate = gates()
    with mpsteal.Pool(2) as pool:
        lost_signal.is_meant = True
        with pytest.raises(KeyboardInterrupt):
            WAYS[way](pool, gate)
        gate.open()


@pytest.mark.parametrize("limit", [None, 1000])
@pytest.mark.parametrize("call", ["result", "exception"])
def test_future_wakes(call: str, limit: float | None, lost_signal: LostSignal, gates: Callable[..., Gate]) -> None:
    gate = gates()
    with mpsteal.Executor(2) as executor:
        task = executor.submit(pass_gate, gate)
        lost_signal.is_meant = True
        with pytest.raises(KeyboardInterrupt):
            getattr(task, call)(limit)
        gate.open()


@pytest.mark.parametrize("timeout", [0, 0.05, 0.1, 0.25, 3.3])
def test_parts_are_the_whole(timeout: float, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(waits.time, "monotonic", lambda: now[0])
    parts = []
    for part in waits.in_parts(timeout):
        parts.append(part)
        now[0] += part
    assert sum(parts) == pytest.approx(timeout)
    assert all(0 <= part <= waits.LONGEST_S for part in parts)


def test_time_that_a_wait_takes_longer_is_not_waited_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(waits.time, "monotonic", lambda: now[0])
    parts = waits.in_parts(1.0)
    assert next(parts) == waits.FIRST_S
    now[0] += 5
    assert list(parts) == [0.0]
