"""A `QuickThread` is a `Thread` that does not wait in `start`."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from waiting import ALARM_S

from mpsteal._engine.quick_thread import QuickThread

STARTER = "_start_joinable_thread" if hasattr(threading, "_start_joinable_thread") else "_start_new_thread"
"""What `Thread.start` calls for a new thread: from Python 3.13 on, and before."""


class Held:
    """Threads that are to be started, and are not yet: as where no core is free for them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch, self._start = monkeypatch, getattr(threading, STARTER)
        self._calls: list[Any] = []

    def start(self, thread: threading.Thread) -> None:
        with self._patch.context() as patch:
            patch.setattr(threading, STARTER, lambda *args, **kwds: self._calls.append((args, kwds)))
            thread.start()

    def let_go(self) -> None:
        for args, kwds in self._calls:
            self._start(*args, **kwds)


def test_start_does_not_wait_for_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    held, ran = Held(monkeypatch), threading.Event()
    thread = QuickThread(target=ran.set, daemon=True)
    assert not thread.is_alive()
    held.start(thread)
    assert thread.is_alive()
    assert not ran.is_set()
    thread.join(0.0)
    assert thread.is_alive()
    held.let_go()
    thread.join(ALARM_S)
    assert ran.is_set()
    assert not thread.is_alive()


def test_join_waits_for_one_that_does_not_run_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    held, ran = Held(monkeypatch), threading.Event()
    thread = QuickThread(target=ran.set, daemon=True)
    held.start(thread)
    other = threading.Thread(target=held.let_go)
    other.start()
    thread.join()
    assert ran.is_set()
    other.join()


def test_a_refused_thread_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("can't start new thread")

    thread = QuickThread(target=print, daemon=True)
    with monkeypatch.context() as patch:
        patch.setattr(threading, STARTER, refuse)
        with pytest.raises(RuntimeError, match="new thread"):
            thread.start()
    assert not thread.is_alive()
    assert thread not in threading.enumerate()


def test_it_is_the_current_thread_inside() -> None:
    seen: list[Any] = []
    thread = QuickThread(target=lambda: seen.append(threading.current_thread()), name="quick", daemon=True)
    thread.start()
    thread.join(ALARM_S)
    assert seen == [thread]
    with pytest.raises(RuntimeError, match="once"):
        thread.start()
