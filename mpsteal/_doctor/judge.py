"""What facts mean for a pool. Pure: facts in, findings out."""

from __future__ import annotations

from . import OK, PROBLEM, WARNING, Finding
from .facts import (
    Blas,
    Cores,
    Cpus,
    Kernel,
    Limit,
    Memory,
    Packages,
    Python,
    SharedMemory,
    StartMethods,
    Temporary,
)

OLDEST, NEWEST = (3, 10), (3, 13)
"""Versions of Python that the tests run on."""

MIB = 1 << 20

AGENT_BYTES = 24 * MIB
"""Memory that an agent takes of its own before it has done anything: 13 MiB (spawn, Python 3.11), and as much again for
the least that a task may want. Too low calls a machine well on which the first import ends an agent; too high warns of
nothing."""

FILES_ALWAYS, FILES_PER_AGENT = 9, 8
"""Descriptors of a pool's process, and those for each agent."""

PROCESSES_ALWAYS = 4
"""Besides the agents: the engine's thread, that for callbacks, the Manager, and its server's."""

LEAST_ADDRESSES, ROOMY_ADDRESSES = 64 * MIB, 1024 * MIB
"""A pool starts with 100 MiB of address space (tested), and maps 160 MiB and more where it can."""


def _mib(size: int) -> str:
    return f"{size / MIB:,.0f} MiB" if size < 10 * 1024 * MIB else f"{size / 1024 / MIB:,.0f} GiB"


def judge_python(seen: Python) -> Finding:
    """Interpreter and platform."""
    version = ".".join(map(str, seen.version))
    text = f"{seen.implementation} {version} on {seen.system}, {seen.machine}"
    if seen.system not in ("Linux", "Darwin"):
        return Finding("python", PROBLEM, text, "mpsteal runs on Linux and macOS only")
    if seen.version[:2] < OLDEST:
        return Finding("python", PROBLEM, text, f"Python {OLDEST[0]}.{OLDEST[1]} is the oldest that is supported")
    if seen.implementation != "CPython":
        return Finding("python", WARNING, text, "tested on CPython only")
    if seen.is_free_threaded:
        return Finding("python", WARNING, f"{text}, free-threaded", "not tested on free-threaded builds")
    if seen.version[:2] > NEWEST:
        return Finding("python", WARNING, text, f"not tested on anything newer than {NEWEST[0]}.{NEWEST[1]}")
    return Finding("python", OK, text)


def judge_packages(seen: Packages) -> Finding:
    """Core dependencies, and what the extras would add."""
    parts = [f"{name} {version or 'missing'}" for name, version in seen.needed.items()]
    parts += [
        f"{name} {version}" if version else f"{name} not installed (optional, extra {seen.extras[name]!r})"
        for name, version in seen.optional.items()
    ]
    missing = [name for name, version in seen.needed.items() if version is None]
    advice = f"python -m pip install {' '.join(missing)}" if missing else ""
    return Finding("packages", PROBLEM if missing else OK, ", ".join(parts), advice)


def judge_start_methods(seen: StartMethods) -> Finding:
    """How agents can be started."""
    first, *others = seen.available
    return Finding("start methods", OK, f"{first} is the default" + (f"; also {', '.join(others)}" if others else ""))


def judge_cpus(seen: Cpus) -> Finding:
    """How many agents `Pool()` starts, and why."""
    text = f"Pool() starts {seen.usable} agent{'s' * (seen.usable != 1)}: {seen.machine} CPUs"
    if seen.affinity < seen.machine:
        text += f", affinity leaves {seen.affinity}"
    if seen.usable < seen.affinity:
        text += f", the cgroup's quota {seen.usable}"
    if seen.usable == 1:
        return Finding("cpus", WARNING, text, "with one CPU a pool is no faster than a loop; give the process more")
    return Finding("cpus", OK, text)


def judge_memory(seen: Memory) -> Finding:
    """Room for the agents."""
    room, text = seen.available, f"{_mib(seen.available)} available"
    if seen.limit is not None:
        room = min(room, seen.limit - seen.used)
        text += f"; the cgroup allows {_mib(seen.limit)} and uses {_mib(seen.used)}"
    agents = f"{seen.agents} agent{'s' * (seen.agents != 1)}"
    if room < seen.agents * AGENT_BYTES:
        advice = f"{agents} take {_mib(seen.agents * AGENT_BYTES)} before any task does: fewer agents, or more memory"
        return Finding("memory", PROBLEM, text, advice)
    if room < 4 * seen.agents * AGENT_BYTES:
        advice = f"{_mib(room // seen.agents)} for each of {agents}; the kernel kills (SIGKILL) whoever needs more"
        return Finding("memory", WARNING, text, advice)
    return Finding("memory", OK, text)


def judge_shared_memory(seen: SharedMemory) -> Finding:
    """Where the segment comes to lie."""
    places = {"/dev/shm": seen.shm_free, "the temporary directory": seen.temporary_free}
    free = ", ".join(f"{name} has {_mib(size)} free" for name, size in places.items() if size is not None)
    if not seen.memfd:
        return Finding("shared memory", OK, f"memfd_create works, so no device bounds it; {free}")
    text = f"no memfd ({seen.memfd}); {free or 'and no other place'}"
    best = max((size for size in places.values() if size is not None), default=0)
    if best < seen.needed:
        return Finding("shared memory", PROBLEM, text, f"a pool needs {_mib(seen.needed)}: make /dev/shm larger")
    advice = "tasks go through a file: allow memfd_create (seccomp, vm.memfd_noexec), or make /dev/shm 1 GiB"
    if seen.memfd.endswith("has none") and best >= 1024 * MIB:
        return Finding("shared memory", OK, text)
    return Finding("shared memory", WARNING, text, advice)


def judge_kernel(seen: Kernel) -> list[Finding]:
    """What the queue and the watch over processes are built on."""
    found = []
    if seen.locks:
        advice = "no pool can work: allow fcntl(F_SETLK) on memfd and temporary files"
        found.append(Finding("record locks", PROBLEM, seen.locks, advice))
    else:
        found.append(Finding("record locks", OK, "they keep other processes out"))
    if seen.has_membarrier:
        found.append(Finding("membarrier", OK, "owners take tasks without a lock"))
    elif seen.wants_membarrier:
        advice = "works without, about 1 us slower per task; a seccomp profile that allows membarrier brings it back"
        found.append(Finding("membarrier", WARNING, "refused", advice))
    else:
        found.append(Finding("membarrier", OK, "not used on this kind of machine; owners lock"))
    if not seen.pidfd:
        found.append(Finding("pidfd", OK, "deaths are seen at once"))
    elif seen.pidfd.endswith("has none"):
        found.append(Finding("pidfd", OK, f"{seen.pidfd}; agents ask every 0.5 s whether their parent lives"))
    else:
        advice = "agents ask every 0.5 s instead; allow pidfd_open (Linux 5.3, seccomp)"
        found.append(Finding("pidfd", WARNING, f"refused: {seen.pidfd}", advice))
    return found


def _raise_limit(option: str, wanted: int, seen: Limit) -> str:
    if seen.hard is not None and seen.hard < wanted:
        return f"have the hard limit ({seen.hard}) raised to {wanted} (limits.conf, LimitNOFILE=, docker --ulimit)"
    return f"ulimit -{option} {wanted}"


def judge_open_files(seen: Limit) -> Finding:
    """RLIMIT_NOFILE."""
    need = FILES_ALWAYS + FILES_PER_AGENT * seen.agents
    if seen.soft is None:
        return Finding("open files", OK, "unlimited")
    text = f"{seen.soft} may be open, {seen.used} are; a pool of {seen.agents} takes about {need}"
    wanted = max(1024, 4 * need)
    if seen.soft - seen.used < need:
        return Finding("open files", PROBLEM, text, "such a pool cannot start: " + _raise_limit("n", wanted, seen))
    if seen.soft - seen.used < 2 * need:
        return Finding("open files", WARNING, text, "little is left for you: " + _raise_limit("n", wanted, seen))
    return Finding("open files", OK, text)


def judge_processes(seen: Limit) -> Finding:
    """RLIMIT_NPROC."""
    need = seen.agents + PROCESSES_ALWAYS
    if seen.soft is None:
        return Finding("processes", OK, "unlimited for this user")
    text = f"this user may have {seen.soft} processes and threads, and has {seen.used}; a pool adds {need}"
    wanted = seen.used + 64 * seen.agents
    if seen.soft - seen.used < need:
        return Finding("processes", PROBLEM, text, "no pool can start: " + _raise_limit("u", wanted, seen))
    if seen.soft - seen.used < 4 * need:
        return Finding(
            "processes", WARNING, text, "dead agents may not be replaced: " + _raise_limit("u", wanted, seen)
        )
    return Finding("processes", OK, text)


def judge_address_space(seen: Limit) -> Finding:
    """RLIMIT_AS."""
    if seen.soft is None:
        return Finding("address space", OK, "unlimited")
    text = f"{_mib(seen.soft)} for each process, of which this one has mapped {_mib(seen.used)}"
    if seen.soft - seen.used < LEAST_ADDRESSES:
        return Finding("address space", PROBLEM, text, "a pool finds no room to map its segment: ulimit -v unlimited")
    if seen.soft < ROOMY_ADDRESSES:
        advice = "the pool holds fewer tasks, and those that need more raise MemoryError: ulimit -v unlimited"
        return Finding("address space", WARNING, text, advice)
    return Finding("address space", OK, text)


def judge_cores(seen: Cores) -> Finding:
    """RLIMIT_CORE: what a crash leaves behind."""
    if seen.soft == 0:
        return Finding("core dumps", OK, "off")
    if seen.pattern.startswith("|"):
        return Finding("core dumps", OK, f"on, and handed to {seen.pattern[1:].split()[0]}")
    size = "of any size" if seen.soft is None else f"of up to {_mib(seen.soft)}"
    text = f"on: every agent that crashes leaves one {size}" + (f" ({seen.pattern})" if seen.pattern else "")
    return Finding(
        "core dumps", WARNING, text, "they hold what the tasks had in memory; if nobody reads them: ulimit -c 0"
    )


def judge_temporary(seen: Temporary) -> list[Finding]:
    """The temporary directory, and the paths of sockets in it."""
    name = "temporary directory"
    if not seen.used:
        advice = "set TMPDIR to a directory that this user can write to, with space left"
        return [Finding(name, PROBLEM, "there is none that can be written to", advice)]
    found = []
    if seen.asked and _same(seen.asked) != _same(seen.used):
        text = f"TMPDIR is {seen.asked}, which cannot be written to; Python takes {seen.used}"
        found.append(Finding(name, PROBLEM, text, "create it, make it writable, free space there, or unset TMPDIR"))
    elif seen.is_open_to_others:
        text = f"{seen.used}: others may rename what is in it"
        found.append(Finding(name, WARNING, text, f"chmod +t {seen.used}, or set TMPDIR to a directory of your own"))
    else:
        found.append(Finding(name, OK, seen.used))
    text = f"{seen.socket_path} bytes at most, {seen.socket_limit} are allowed"
    if seen.socket_path > seen.socket_limit:
        advice = "set TMPDIR to a shorter path: the forkserver cannot start, and no Manager can be asked"
        found.append(Finding("socket paths", PROBLEM, text, advice))
    else:
        found.append(Finding("socket paths", OK, text))
    return found


def _same(path: str) -> str:
    return path.rstrip("/") or "/"


def judge_leftovers(seen: list[str]) -> Finding:
    """What pools left behind whose parent and Manager were killed together."""
    if not seen:
        return Finding("leftovers", OK, "none")
    text = f"of pools that were killed with their Manager: {' '.join(seen)}"
    return Finding("leftovers", WARNING, text, f"nobody uses them any more: rm -r {' '.join(seen)}")


def judge_blas(seen: Blas) -> Finding:
    """Threads that libraries start inside each agent."""
    if seen.variables:
        return Finding("blas threads", OK, ", ".join(f"{name}={value}" for name, value in seen.variables.items()))
    if not seen.has_numpy or seen.agents == 1:
        return Finding("blas threads", OK, "no variable is set" + "; NumPy is not installed" * (not seen.has_numpy))
    text = "NumPy is installed, and no variable is set"
    advice = (
        f"each of {seen.agents} agents may start as many threads as there are CPUs: OMP_NUM_THREADS=1 before the start"
    )
    return Finding("blas threads", WARNING, text, advice)
