"""Looks at the machine. Facts only: what they mean is said in `judge.py`. Nothing is changed, nothing deleted.

Each function looks at one thing and may raise; the command makes a finding of that, too.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import importlib.util
import multiprocessing
import os
import platform
import re
import resource
import socket
import stat
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from .._engine.cpus import cgroup_folders, usable_cpus
from .._queue.arena import anonymous_file
from .._queue.barrier import load_barrier

SETTLED_S = 60.0
"""Age from which a folder without a living Manager is left over: sooner, one may just be starting."""

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""What the usual BLAS libraries read."""


class Python(NamedTuple):
    """The interpreter."""

    implementation: str
    version: tuple[int, int, int]
    is_free_threaded: bool
    system: str
    machine: str


def look_at_python() -> Python:
    """See `Python`."""
    return Python(
        platform.python_implementation(),
        (sys.version_info.major, sys.version_info.minor, sys.version_info.micro),
        bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
        platform.system(),
        platform.machine(),
    )


class Packages(NamedTuple):
    """Installed versions by name, None where there is none.

    Attributes:
        needed: what mpsteal depends on.
        optional: what its extras add, by name; the extra's name in `extras`.
    """

    needed: dict[str, str | None]
    optional: dict[str, str | None]
    extras: dict[str, str]


def look_at_packages() -> Packages:
    """What the package's own metadata asks for; of a source tree that is not installed, what its dependencies are."""
    try:
        lines = importlib.metadata.requires("mpsteal") or []
    except importlib.metadata.PackageNotFoundError:
        lines = ["PyYAML", "psutil"]
    needed: dict[str, str | None] = {}
    optional: dict[str, str | None] = {}
    extras: dict[str, str] = {}
    for line in lines:
        name = re.match(r"[\w.-]+", line)
        extra = re.search(r"extra == ['\"]([^'\"]+)", line)
        if name is None or (extra is not None and extra[1] == "test"):
            continue
        if extra is None:
            needed[name[0]] = _version(name[0])
        else:
            optional[name[0]] = _version(name[0])
            extras[name[0]] = extra[1]
    return Packages(needed, optional, extras)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


class StartMethods(NamedTuple):
    """How processes can be started; the first one is the default."""

    available: list[str]


def look_at_start_methods() -> StartMethods:
    """See `StartMethods`."""
    return StartMethods(multiprocessing.get_all_start_methods())


class Cpus(NamedTuple):
    """CPUs of the machine, those that affinity leaves, and those that `Pool()` uses."""

    machine: int
    affinity: int
    usable: int


def look_at_cpus() -> Cpus:
    """See `Cpus`."""
    machine = os.cpu_count() or 1
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else machine
    return Cpus(machine, affinity, usable_cpus())


class Memory(NamedTuple):
    """Bytes.

    Attributes:
        available: what the system can give without swapping.
        limit: the cgroup's limit, None if there is none.
        used: what the cgroup uses of it.
        agents: how many `Pool()` starts.
    """

    available: int
    limit: int | None
    used: int
    agents: int


def look_at_memory(cgroup_root: str = "/sys/fs/cgroup") -> Memory:
    """See `Memory`. Of nested cgroups the one with the least room counts."""
    import psutil

    tightest: tuple[int, int] | None = None
    for folder in cgroup_folders(Path(cgroup_root), "memory"):
        for limit_name, used_name in (("memory.max", "memory.current"), _MEMORY_V1):
            try:
                limit, used = (int((folder / name).read_text()) for name in (limit_name, used_name))
            except (OSError, ValueError):  # "max"
                continue
            if limit < 1 << 60 and (tightest is None or limit - used < tightest[0] - tightest[1]):
                tightest = limit, used
    limit_used = tightest or (None, 0)
    return Memory(int(psutil.virtual_memory().available), limit_used[0], limit_used[1], usable_cpus())


_MEMORY_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes")


class SharedMemory(NamedTuple):
    """Where a segment may lie.

    Attributes:
        memfd: "" if `memfd_create` works, else why not.
        shm_free, temporary_free: bytes in /dev/shm and the temporary directory; None: there is none.
        needed: bytes that a pool reserves at least.
    """

    memfd: str
    shm_free: int | None
    temporary_free: int | None
    needed: int


def look_at_shared_memory() -> SharedMemory:
    """See `SharedMemory`."""
    from .._queue import layout as L

    if hasattr(os, "memfd_create"):
        try:
            os.close(os.memfd_create("mpsteal-doctor", os.MFD_CLOEXEC))
            memfd = ""
        except OSError as error:
            memfd = str(error)
    else:
        memfd = f"{platform.system()} has none"
    shape = L.Layout(L.Geometry(usable_cpus()))
    page = shape.geometry.page_chunks * L.SLOT_WORDS * 8 + shape.geometry.page_bytes
    needed = shape.slots_word * 8 + shape.geometry.slots * shape.geometry.ring_bytes + page
    try:
        temporary = _free(tempfile.gettempdir())
    except OSError:
        temporary = None
    return SharedMemory(memfd, _free("/dev/shm"), temporary, needed)


def _free(folder: str) -> int | None:
    try:
        system = os.statvfs(folder)
    except OSError:
        return None
    return system.f_bavail * system.f_frsize


class Kernel(NamedTuple):
    """Calls that the queue and the watch over processes are built on.

    Attributes:
        locks: "" if record locks keep other processes out, else what was seen.
        has_membarrier, wants_membarrier: whether it works, and whether it would be used on this kind of machine.
        pidfd: "" if `pidfd_open` works, else why not.
    """

    locks: str
    has_membarrier: bool
    wants_membarrier: bool
    pidfd: str


def look_at_kernel() -> Kernel:
    """See `Kernel`. Forks once, to have somebody who is to be kept out."""
    pidfd = f"{platform.system()} has none"
    if hasattr(os, "pidfd_open"):
        try:
            os.close(os.pidfd_open(os.getpid()))
            pidfd = ""
        except OSError as error:
            pidfd = str(error)
    wants = sys.platform == "linux" and platform.machine() == "x86_64"
    return Kernel(_try_locks(), load_barrier() is not None, wants, pidfd)


def _try_locks() -> str:
    fd = anonymous_file("doctor", 8)
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 3)
        child = os.fork()
        if child == 0:
            code = 2
            try:
                fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 4)
                fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 3)
                code = 1
            except (BlockingIOError, PermissionError):
                code = 0
            finally:
                os._exit(code)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    except OSError as error:
        return str(error)
    finally:
        os.close(fd)
    return {0: "", 1: "a second process was let in"}.get(status, "a second process could not even ask")


class Limit(NamedTuple):
    """One resource limit.

    Attributes:
        soft, hard: None is "unlimited".
        used: how much of it is used now.
        agents: how many `Pool()` starts.
    """

    soft: int | None
    hard: int | None
    used: int
    agents: int


def _limit(number: int) -> tuple[int | None, int | None]:
    soft, hard = (None if value == resource.RLIM_INFINITY else value for value in resource.getrlimit(number))
    return soft, hard


def look_at_open_files() -> Limit:
    """RLIMIT_NOFILE."""
    import psutil

    return Limit(*_limit(resource.RLIMIT_NOFILE), psutil.Process().num_fds(), usable_cpus())


def look_at_processes() -> Limit:
    """RLIMIT_NPROC, which counts the threads of the user; the superuser is not held to it."""
    import psutil

    soft, hard = _limit(resource.RLIMIT_NPROC)
    if os.geteuid() == 0:
        soft = None
    used = 0
    if soft is not None:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.uids().real == os.getuid():
                    used += process.num_threads()
    return Limit(soft, hard, used, usable_cpus())


def look_at_address_space() -> Limit:
    """RLIMIT_AS, in bytes."""
    import psutil

    return Limit(*_limit(resource.RLIMIT_AS), psutil.Process().memory_info().vms, usable_cpus())


class Cores(NamedTuple):
    """RLIMIT_CORE (None: unlimited), and where the kernel sends core dumps ("" if unknown)."""

    soft: int | None
    pattern: str


def look_at_cores() -> Cores:
    """See `Cores`."""
    try:
        pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    except OSError:
        pattern = ""
    return Cores(_limit(resource.RLIMIT_CORE)[0], pattern)


class Temporary(NamedTuple):
    """The directory for temporary files.

    Attributes:
        asked: TMPDIR, "" if it is not set.
        used: what Python takes, "" if it finds none.
        is_open_to_others: whether others may rename what we make there.
        socket_path, socket_limit: bytes of the longest path of a socket there, and what the system takes.
    """

    asked: str
    used: str
    is_open_to_others: bool
    socket_path: int
    socket_limit: int


def look_at_temporary() -> Temporary:
    """See `Temporary`."""
    asked = os.environ.get("TMPDIR", "")
    try:
        used = tempfile.gettempdir()
    except OSError:
        return Temporary(asked, "", False, 0, 0)
    mode = os.stat(used).st_mode
    is_open = bool(mode & (stat.S_IWOTH | stat.S_IWGRP)) and not mode & stat.S_ISVTX
    # Ours, and that of multiprocessing's fork server.
    names = ("mpsteal-12345678/manager", "pymp-12345678/listener-12345678")
    longest = max(len(os.fsencode(os.path.join(used, name))) for name in names)
    # One byte ends the path: sun_path in sys/un.h has 108 bytes on Linux, 104 on BSDs and macOS.
    return Temporary(asked, used, is_open, longest, 107 if sys.platform == "linux" else 103)


def look_at_leftovers(folders: tuple[str, ...] = ()) -> list[str]:
    """Paths of this user that look like ours and belong to no living pool.

    Args:
        folders: where to look; default: the temporary directory and /dev/shm.
    """
    found = []
    for folder in folders or _places():
        try:
            entries = list(os.scandir(folder))
        except OSError:
            continue
        for entry in entries:
            if entry.name.startswith("mpsteal-"):
                with contextlib.suppress(OSError):
                    facts = entry.stat(follow_symlinks=False)
                    is_old = time.time() - facts.st_mtime > SETTLED_S
                    if facts.st_uid == os.geteuid() and is_old and not _answers(entry.path):
                        found.append(entry.path)
    return sorted(found)


def _places() -> tuple[str, ...]:
    places = ["/dev/shm"]
    with contextlib.suppress(OSError):
        places.append(tempfile.gettempdir())
    return tuple(places)


def _answers(folder: str) -> bool:
    """Whether a Manager listens there."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1.0)  # a full queue of a Manager that is stopped; it lives
        try:
            client.connect(os.path.join(folder, "manager"))
        except TimeoutError:
            return True
        except OSError:
            return False
    return True


class Blas(NamedTuple):
    """What bounds the threads of libraries.

    Attributes:
        has_numpy: whether it can be imported.
        variables: those of `THREAD_VARIABLES` that are set.
        agents: how many `Pool()` starts.
    """

    has_numpy: bool
    variables: dict[str, str]
    agents: int


def look_at_blas() -> Blas:
    """See `Blas`."""
    known = {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ}
    return Blas(importlib.util.find_spec("numpy") is not None, known, usable_cpus())
