"""Gates hold a task at a named point for as long as a test needs, whatever the start method.

    test                                         task (in an agent)
    ----                                         ------------------
    gate = gates("started")
    pool.apply_async(pass_gate, (gate, 7))
                                                 gate.wait():  1. write one byte to <name>.arrived
    gate.wait_arrived()   <── the byte ──────────
      ... the task is held exactly here ...                    2. read one byte from <name>.permits
    gate.release() or gate.open()  ── a byte ──>               3. go on
    result.get() == 7

A gate is two FIFOs in a directory, and a task finds them by path: nothing has to be inherited, so
it is the same for fork, spawn and forkserver, and a pickled gate is only its path. The kernel
counts arrivals and permits (bytes in a pipe), so nothing is lost if the two sides come in any
order, and a task that is killed while it waits takes no permit.

The test holds both ends of both FIFOs, so a task's open never blocks. Every wait has a limit, which
is an alarm for deadlocks only: end-of-file proves nothing here, since forked agents hold copies of
the test's ends.
"""

from __future__ import annotations

import os
import select
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ALARM_S = 60.0
"""Longest wait on either side; below pytest's limit, so that the failure names the gate."""

OPEN_PERMITS = 4096
"""What `open` leaves in the pipe: more than tasks in any test, no more than the smallest pipe."""


class Gate:
    """One named point. The process that made it opens it; tasks wait at it, in any process.

    Args:
        path: the gate's place without a suffix; its directory exists and the name is new there.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        self._fds: dict[str, int] = {}
        for kind in ("arrived", "permits"):
            os.mkfifo(self._fifo(kind))
            self._fds[kind] = os.open(self._fifo(kind), os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def __repr__(self) -> str:
        return f"<Gate {Path(self._path).name}>"

    def __getstate__(self) -> dict[str, Any]:
        return {"_path": self._path, "_fds": {}}

    # The task's side.

    def arrive(self) -> None:
        """Say that this point is reached, and go on."""
        fd = os.open(self._fifo("arrived"), os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, b".")
        finally:
            os.close(fd)

    def wait(self) -> None:
        """Say that this point is reached, and stay until the test lets one task go on."""
        self.arrive()
        fd = os.open(self._fifo("permits"), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            self._read(fd, 1, f"nobody opened {self!r}")
        finally:
            os.close(fd)

    # The test's side.

    def wait_arrived(self, count: int = 1) -> None:
        """Wait until `count` more tasks have reached this point."""
        self._read(self._fds["arrived"], count, f"too few arrived at {self!r}")

    def arrived_nowait(self) -> int:
        """How many more tasks have reached this point by now; they count as seen."""
        try:
            return len(os.read(self._fds["arrived"], OPEN_PERMITS))
        except BlockingIOError:
            return 0

    def release(self, count: int = 1) -> None:
        """Let `count` tasks go on, those that wait now or the next to come."""
        os.write(self._fds["permits"], b"." * count)

    def open(self) -> None:
        """Let every task go on from now on."""
        self.release(OPEN_PERMITS)

    def close(self) -> None:
        """Open the gate for whoever still waits, and give the descriptors back."""
        if not self._fds:
            return
        try:
            self.open()
        except BlockingIOError:
            pass  # full of permits already
        while self._fds:
            os.close(self._fds.popitem()[1])

    def _fifo(self, kind: str) -> str:
        return f"{self._path}.{kind}"

    def _read(self, fd: int, count: int, complaint: str) -> None:
        """Take `count` bytes from `fd`, non-blocking: another may take the one that poll showed."""
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        while count > 0:
            if not poll.poll(ALARM_S * 1000):
                raise TimeoutError(f"{complaint} within {ALARM_S:.0f} s")
            try:
                taken = len(os.read(fd, count))
            except BlockingIOError:
                continue
            if not taken:
                raise EOFError(f"{self!r} was closed")
            count -= taken


class Gates:
    """Makes gates in one directory, by name, and closes them all: the fixture `gates`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._gates: dict[str, Gate] = {}

    def __call__(self, name: str = "gate") -> Gate:
        """The gate of that name, made at the first call."""
        if name not in self._gates:
            self._gates[name] = Gate(self._directory / name)
        return self._gates[name]

    def close(self) -> None:
        """Close every gate."""
        for gate in self._gates.values():
            gate.close()


# Task functions that any test can send: they live in a module that children of every start method
# can import.


def pass_gate(gate: Gate, value: Any = None) -> Any:
    """Wait at `gate`, then return `value`."""
    gate.wait()
    return value


def pass_gates(gates: Sequence[Gate], value: Any = None) -> Any:
    """Wait at each gate in turn, then return `value`."""
    for gate in gates:
        gate.wait()
    return value


def arrive_and_pid(gate: Gate) -> int:
    """Arrive at `gate` without waiting, and return the process that ran this."""
    gate.arrive()
    return os.getpid()


def pass_gate_and_pid(gate: Gate) -> int:
    """Wait at `gate`, then return the process that ran this."""
    gate.wait()
    return os.getpid()
