"""What the tests of `on_error=` and `progress=` send to agents; importable by children of every start method."""

from __future__ import annotations

import os
from typing import Any

from fault_tasks import NotForTravel, note
from gates import Gate


class FrozenError(Exception):
    """Takes no attributes of other people's."""

    def __setattr__(self, name: str, value: object) -> None:
        if not name.startswith("__"):
            raise AttributeError(f"{name} cannot be set")


def tens_fail(value: int) -> int:
    if value % 10 == 3:
        raise ValueError(value)
    return value


def tens_fail_of(value: int, plus: int) -> int:
    return tens_fail(value + plus)


def by_kind(kind: str) -> str:
    """Each kind of item ends in its own way."""
    if kind == "raises":
        raise KeyError(kind)
    if kind == "stops":
        raise StopIteration
    if kind == "exits":
        raise SystemExit(3)
    if kind == "dies":
        os._exit(7)
    if kind == "freezes":
        raise FrozenError(kind)
    if kind == "stays":
        return NotForTravel()  # type: ignore[return-value]  # cannot be pickled
    return kind


def fork_and_leave(path: str, value: int) -> int:
    """Item 1 forks, and the child leaves by `sys.exit`; whoever runs an item notes it."""
    note(path, value)
    if value == 1:
        pid = os.fork()
        if not pid:
            raise SystemExit(0)
        os.waitpid(pid, 0)
    return value


def at_gates(gates: dict[int, Gate], path: str, wrong: int, value: int) -> Any:
    """Waits at the item's gate if it has one, raises if it is the wrong one, else notes itself."""
    if value in gates:
        gates[value].wait()
    if value == wrong:
        raise ValueError(value)
    return note(path, value)
