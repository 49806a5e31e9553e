"""The kernel's locks, with real processes: who dies gives them back (D4)."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator

import pytest

from mpsteal._queue.arena import anonymous_file
from mpsteal._queue.locks import Locks

SLOTS = 3


@pytest.fixture(params=[1, SLOTS + 1], ids=["one file", "a file each"])
def locks(request: pytest.FixtureRequest) -> Iterator[Locks]:
    fds = [anonymous_file("test-locks", SLOTS + 1) for _ in range(request.param)]
    yield Locks(fds, SLOTS)
    for fd in fds:
        os.close(fd)


class Holder:
    """A child that takes locks, says so, and keeps them until it is told or killed."""

    def __init__(self, locks: Locks, slots: list[int]) -> None:
        said_r, said_w = os.pipe()
        told_r, told_w = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            os.close(told_w)
            for slot in slots:
                locks.lock(slot)
            os.write(said_w, b"!")
            os.read(told_r, 1)
            for slot in slots:
                locks.unlock(slot)
            os.write(said_w, b"!")
            os.read(told_r, 1)
            os._exit(0)
        os.close(said_w)
        os.close(told_r)
        self.said, self.told = said_r, told_w
        self.wait()

    def wait(self) -> None:
        assert os.read(self.said, 1) == b"!"

    def tell(self) -> None:
        os.write(self.told, b"!")

    def end(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.said)
        os.close(self.told)


def test_each_slot_has_a_lock_of_its_own(locks: Locks) -> None:
    holder = Holder(locks, [1])
    try:
        assert not locks.try_lock(1)
        for slot in (0, 2):
            assert locks.try_lock(slot)
            locks.unlock(slot)
    finally:
        holder.end()


def test_unlocked_is_free(locks: Locks) -> None:
    holder = Holder(locks, [0, 2])
    try:
        assert not locks.try_lock(0)
        holder.tell()
        holder.wait()
        assert locks.try_lock(0)
        assert locks.try_lock(2)
    finally:
        holder.end()


def test_killed_holder_gives_back_all_it_held(locks: Locks) -> None:
    holder = Holder(locks, [0, 1, 2])
    assert not any(locks.try_lock(slot) for slot in range(SLOTS))
    holder.end()
    assert all(locks.try_lock(slot) for slot in range(SLOTS))


def test_waiter_gets_the_lock_of_a_killed_holder(locks: Locks) -> None:
    first = Holder(locks, [1])
    said_r, said_w = os.pipe()
    waiter = os.fork()
    if not waiter:
        locks.lock(1)
        os.write(said_w, b"!")
        os._exit(0)
    os.close(said_w)
    first.end()
    assert os.read(said_r, 1) == b"!"
    os.close(said_r)
    os.waitpid(waiter, 0)
    assert locks.try_lock(1)


def test_fence_frees_no_lock(locks: Locks) -> None:
    holder = Holder(locks, [0, 1, 2])
    try:
        locks.fence()
        locks.order()
        assert not any(locks.try_lock(slot) for slot in range(SLOTS))
    finally:
        holder.end()
    locks.lock(2)
    locks.fence()
    holder = Holder(locks, [0])
    try:
        locks.unlock(2)
    finally:
        holder.end()


def test_life_is_over_when_its_process_is_dead_or_another_program(locks: Locks) -> None:
    """A forked child that lives on, with copies of all descriptors, does not count."""
    (said_r, said_w), (go_r, go_w), (stay_r, stay_w) = os.pipe(), os.pipe(), os.pipe()
    parent = os.fork()
    if not parent:
        locks.hold_life()
        locks.fence()
        if not os.fork():
            os.close(stay_w)
            os.write(said_w, b"!")
            os.read(stay_r, 1)  # until the test closes its end
            os._exit(0)
        os.read(go_r, 1)
        os.set_inheritable(said_w, True)
        os.set_inheritable(stay_r, True)
        code = f"import os; os.write({said_w}, b'!'); os.read({stay_r}, 1)"
        os.execv(sys.executable, [sys.executable, "-S", "-E", "-c", code])
    assert os.read(said_r, 1) == b"!"
    assert not locks.is_parent_gone()
    os.write(go_w, b"!")
    assert os.read(said_r, 1) == b"!"
    assert locks.is_parent_gone()
    os.close(stay_w)
    assert os.waitpid(parent, 0)[1] == 0
    for fd in said_r, said_w, go_r, go_w, stay_r:
        os.close(fd)
