"""Locks that the kernel releases when their holder dies (D4), and the fence made of one of its calls (D5).

One byte of a small unlinked file per agent. Record locks belong to the process, so within the parent only the
engine thread may enter a section, and nobody may close another descriptor of such a file in a process that holds one.

One more byte is held by the parent for as long as the pool lives, and so tells of its end (D12). A process loses its
record locks when it dies, and when it becomes another program, since the descriptor is closed on exec: its pid, and
with it every pidfd, lives on then. A forked child inherits no record lock, whatever descriptors it holds.

Order in which locks are taken: an agent waits for its own only while it holds nothing; every other lock is tried.
The parent tries all of them. Nobody waits while holding, so there is no cycle (waiting in the other order gave
EDEADLK by the thousand in a prototype).
"""

from __future__ import annotations

import fcntl
import os
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from .arena import anonymous_file
from .quick import make_unlock_first_byte

STORES_ARE_ORDERED = os.uname().machine.lower() in {"x86_64", "amd64", "i686", "i386"}
"""On x86 stores become visible in program order and so do loads (Intel SDM vol. 3A, 8.2.2), so publishing data and
then its index needs no fence there; elsewhere `order()` is one. A flag one side sets and the other tests needs
`fence()` on every machine."""

_lockf = fcntl.lockf
_EX, _NB, _UN = fcntl.LOCK_EX, fcntl.LOCK_EX | fcntl.LOCK_NB, fcntl.LOCK_UN
_SHARED = fcntl.LOCK_SH | fcntl.LOCK_NB


def lock_files(slots: int, agents: int | None = None) -> Iterator[int]:
    """Descriptors of the files that `Locks` wants for that many slots.

    Args:
        agents: slots that have an agent from the start; None: all. Those that a pool may grow by share their files.

    A file for each slot and one for the fence: the kernel has one spin lock per file, and two agents that lock
    different bytes of the same file meet there (2.5 us for lock and unlock instead of 1.75, measured with two agents
    where one alone takes 1.6), for every task where there is no `membarrier`. Where stores may overtake each
    other it is one file for all, so that every section and every fence passes through the same spin lock.
    """
    for _ in range((slots if agents is None else agents) + 1 if STORES_ARE_ORDERED else 1):
        yield anonymous_file("locks", slots + 1)


class ParentLife:
    """A byte that the process of the pool holds while the pool lives, and others test.

    Args:
        fd: the last of the `lock_files`, in whatever process this is.
        slots: number of agents; the byte comes after all that `Locks` uses.
    """

    def __init__(self, fd: int, slots: int) -> None:
        self._fd, self._at = fd, slots + 1

    def hold(self) -> None:
        """Take it; it is given back by the end of this process or its program, or with the descriptor."""
        _lockf(self._fd, _NB, 1, self._at)

    def is_over(self) -> bool:
        """Whether the process that held it is dead or runs another program (3 us). Never true by mistake: it may be
        asked once the agents are started, and they are gone before the pool closes its files.
        """
        try:
            _lockf(self._fd, _SHARED, 1, self._at)
        except (BlockingIOError, PermissionError):
            return False
        return True


class Locks:
    """Byte `i` of file `i` is the lock of agent slot `i`; slots for which there is no file share those of the first
    ones. The first byte of the last file is the fence, held by nobody but for a moment when a process sets its locks
    up. If there is one file only, it is byte `slots` of that. The byte after that, in the last file, is the parent's
    life.

    Args:
        fds: the files, see `lock_files`; one may serve for all.
        slots: number of agents.
        barrier: see `barrier.py`; None where every process of the pool has to do without.
        owner_is_fenced: whether this process takes part in the barriers of others.

    Lock plus unlock costs 0.8 to 1.6 us, a fence half of that (one call), measured on the reference machine.
    """

    def __init__(
        self,
        fds: Sequence[int],
        slots: int,
        barrier: Callable[[], None] | None = None,
        *,
        owner_is_fenced: bool = False,
    ) -> None:
        self._barrier, self.owner_is_fenced = barrier, owner_is_fenced
        self._life = ParentLife(fds[-1], slots)
        of_slots = fds[:-1] or fds
        self._fds = [of_slots[i % len(of_slots)] for i in range(slots)] + [fds[-1]]
        # Any byte of a file will do, if it is not one of an agent's.
        self.fence_slot, self._fence_at = slots, slots if len(fds) == 1 else 0
        at = self._fence_at
        self._fence = partial(_lockf, fds[0], _UN, 1, slots) if at else make_unlock_first_byte(self._fds[slots])
        # A record-lock context must exist on the inode before an unlock goes through its kernel spin lock.
        _lockf(self._fds[slots], _EX, 1, at)
        self._fence()

    def of_owner(self, slot: int) -> tuple[Callable[[], object], Callable[[], object]]:
        """`lock` and `unlock` of one slot without Python frames of their own, for what is paid by every task."""
        fd = self._fds[slot]
        return partial(_lockf, fd, _EX, 1, slot), partial(_lockf, fd, _UN, 1, slot)

    def lock(self, slot: int) -> None:
        """Wait for the lock of a slot. Only its owner may wait, and only while it holds nothing."""
        _lockf(self._fds[slot], _EX, 1, slot)

    def unlock(self, slot: int) -> None:
        """Give the lock of a slot back."""
        _lockf(self._fds[slot], _UN, 1, slot)

    def try_lock(self, slot: int) -> bool:
        """Take the lock of `slot` if it is free."""
        try:
            _lockf(self._fds[slot], _NB, 1, slot)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def holder(self, slot: int) -> int:
        """Process that holds the lock of `slot`, not counting this one; 0: nobody, or it cannot be told here.

        `fence_slot` stands for the fence, which is held for a moment as agents start.
        """
        if sys.platform != "linux":
            return 0
        at = self._fence_at if slot == self.fence_slot else slot
        question = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, at, 1, 0)  # struct flock of fcntl(2)
        kind, _, _, _, pid = struct.unpack("hhqqi", fcntl.fcntl(self._fds[slot], fcntl.F_GETLK, question))
        return 0 if kind == fcntl.F_UNLCK else int(pid)

    def hold_life(self) -> None:
        """For the parent, once: see `ParentLife`."""
        self._life.hold()

    def is_parent_gone(self) -> bool:
        """For agents: see `ParentLife`."""
        return self._life.is_over()

    def fence(self) -> None:
        """Order every store before this call before every load after it, against other callers of `fence`.

        Both sides pass through the same spin lock of the same inode, whichever comes second sees what the first
        one stored. One call is enough: unlocking a byte nobody holds takes that spin lock.
        """
        self._fence()

    def fence_owners(self) -> None:
        """Have every owner that takes chunks without its lock pass a fence, before this call returns.

        Raises OSError when the system refuses what it granted when the pool was made.
        """
        if self._barrier is not None:
            self._barrier()

    def order(self) -> None:
        """Make earlier stores visible before later ones (publish)."""
        if not STORES_ARE_ORDERED:
            self._fence()
