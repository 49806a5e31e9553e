"""Question: where does the time of a small task go, and what is the least that it could take?

``python -m bench profile``: microseconds of CPU per task and stage, in the parent and in its two agents, beside the
physical floor (the same pickles and the same call in one process, one lock, one round trip through a pipe), all in one
run. Every part of every round is a process of its own; the table has the median over the rounds, and the range.

    floor     nothing of mpsteal: pickle + unpickle + call of a task and its result in one process, locks, pipes, clocks
    load-*    a Pool with two agents on two cores, nothing changed in it: CPU time, context switches and wall time per
              task, of the caller's thread, the engine's thread and the agents, from the clocks that the kernel keeps
    stages-*  the same with clocks around the engine's stages (the thread's CPU clock, once per batch and not per task)
    submit    `apply_async` alone, with and without Python's garbage collector
    agent     the agent's own loop over a real segment in one process, and its pieces one by one, each over 4,096 chunks
    where-*   a sampler in each process: which line each thread is at, every few milliseconds
    skew-*    the makespan of an uneven map as a sum: the bound, late sleeps, the start, gaps between items, the end

Not told: what a stage costs while the other core does the same (`agent` runs alone, and what is in cache stays there;
so does each of its pieces, which is why they sum up to less than the loop). A sample is taken where the interpreter
looks for other threads (calls, backward jumps, and most of all where its lock is given up), not anywhere. CPU time on a
virtual machine holds some of its host's. Absolute times are those of one machine; the floor of the same run is beside
them.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import multiprocessing
import os
import pickle
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench import _machine
from bench._tasks import noop, spin_wall

ROOT = Path(__file__).resolve().parent.parent
BASELINE = Path(__file__).parent / "results" / "profile.json"
SCHEMA = 1

AGENTS = 2

PIECES = 4_096
"""Over so many chunks a piece of the agent's loop is measured: a page. Fewer: the clock shows; more: a second page."""

SAMPLE_S = 0.001
"""Between two looks at the threads' frames (s). Shorter: the sampler is what is measured; longer: few samples."""

SAMPLED_SWITCH_S = 0.000_2
"""`sys.setswitchinterval` where the sampler runs (s). With the usual 5 ms it gets in, in an agent, only where a call
gives the interpreter's lock up; shorter makes the caller and the engine change places more often than they do."""

NAP_S = 0.004
"""What an item of the skew rows sleeps on average (s)."""

LINES_SHOWN = 8
LIMIT_S = 120.0

_now = time.perf_counter_ns


# -- what agents run ------------------------------------------------------------------------------------------------


def nap(seconds: float) -> tuple[int, int, int]:
    """Sleep; when it began and ended (ns, of all processes' common clock), and in which process."""
    began = time.monotonic_ns()
    time.sleep(seconds)
    return os.getpid(), began, time.monotonic_ns()


LOADS: dict[str, tuple[Callable[..., Any], Callable[[int], tuple[Any, ...]], int, str]] = {
    "int": (noop, lambda i: (i,), 100_000, "noop(i): one small int there and back"),
    "pickled": (noop, lambda i: ((i, "name"),), 100_000, "noop((i, 'name')): pickled there and back"),
    "spin20": (spin_wall, lambda i: (i, 20_000), 50_000, "20 us of spinning, two small ints there"),
}
"""Function, arguments of task i, tasks, and words."""

_gate: Any = None
_sampler: Sampler | None = None


def begin_agent(gate: Any, samples: bool) -> None:
    """The initializer of agents, which are forked: `gate` is where all of them meet, so that each answers once."""
    global _gate, _sampler
    _gate = gate
    if samples:
        _sampler = Sampler()


def agent_usage(_: int) -> dict[str, Any]:
    """What this agent has used so far; every agent runs one of these at a time."""
    _gate.meet()
    used = resource.getrusage(resource.RUSAGE_SELF)
    samples = dict(_sampler.take()) if _sampler is not None else {}
    return {
        "cpu_ns": time.process_time_ns(),
        "user_s": used.ru_utime,
        "system_s": used.ru_stime,
        "waits": used.ru_nvcsw,
        "preempted": used.ru_nivcsw,
        "samples": samples,
    }


class Gate:
    """Where agents wait until all of them are there."""

    def __init__(self) -> None:
        self.arrived, self.go = os.pipe(), os.pipe()

    def meet(self) -> None:
        """In an agent: say so, and wait."""
        os.write(self.arrived[1], b".")
        os.read(self.go[0], 1)

    def open(self) -> None:
        """In the parent: wait for all, and let them go."""
        for _ in range(AGENTS):
            os.read(self.arrived[0], 1)
        os.write(self.go[1], b"." * AGENTS)

    def close(self) -> None:
        """Nobody comes any more."""
        for fd in (*self.arrived, *self.go):
            os.close(fd)


class Sampler:
    """A thread that notes, every few milliseconds, at which line of which function each other thread is."""

    def __init__(self, names: dict[int, str] | None = None) -> None:
        self.names = names or {threading.get_ident(): "agent"}
        self.seen: Counter[str] = Counter()
        sys.setswitchinterval(SAMPLED_SWITCH_S)
        threading.Thread(target=self._run, daemon=True).start()

    def take(self) -> Counter[str]:
        """What was seen since the last call."""
        seen, self.seen = self.seen, Counter()
        return seen

    def _run(self) -> None:
        while True:
            time.sleep(SAMPLE_S)
            frames = sys._current_frames()
            for thread, name in self.names.items():
                frame = frames.get(thread)
                if frame is not None:
                    code, line = frame.f_code, frame.f_lineno
                    file = "/".join(Path(code.co_filename).parts[-2:])
                    self.seen[f"{name}|{code.co_qualname}|{file}:{line}"] += 1
                del frame
            del frames  # who keeps a frame keeps what its function had


# -- the floor --------------------------------------------------------------------------------------------------------


def per_call(step: Callable[[], object], calls: int) -> float:
    """Microseconds of one call: the least of five runs, less the loop's own."""

    def run(one: Callable[[], object]) -> float:
        best = 1 << 62
        for _ in range(5):
            began = _now()
            for _ in range(calls):
                one()
            best = min(best, _now() - began)
        return best / calls / 1000

    return max(0.0, run(step) - run(lambda: None))


def measure_floor(quick: bool) -> dict[str, float]:
    """Microseconds of what no pool of processes can do without, in one process and between two."""
    import fcntl
    import tempfile

    calls = 2_000 if quick else 20_000
    dumps, loads = pickle.dumps, pickle.loads
    figures: dict[str, float] = {}
    for name, (function, arguments, _, _) in LOADS.items():
        if function is noop:

            def whole(function: Any = function, arguments: Any = arguments) -> None:
                loads(dumps(function(*loads(dumps(arguments(7))))))

            figures[f"pickle + unpickle + call, {name}"] = per_call(whole, calls)
    figures["a Python call with one argument"] = per_call(lambda: noop(7), calls)
    figures["a clock (monotonic)"] = per_call(time.monotonic_ns, calls)
    lock = threading.Lock()
    figures["lock and unlock, of a thread's lock"] = per_call(lambda: (lock.acquire(), lock.release()), calls)
    semaphore = multiprocessing.Semaphore(1)
    figures["lock and unlock, a semaphore in shared memory"] = per_call(
        lambda: (semaphore.acquire(), semaphore.release()), calls
    )
    with tempfile.TemporaryFile() as file:
        fd = file.fileno()
        figures["lock and unlock, a record lock (lockf)"] = per_call(
            lambda: (fcntl.lockf(fd, fcntl.LOCK_EX, 1, 0), fcntl.lockf(fd, fcntl.LOCK_UN, 1, 0)), calls
        )
    late = []
    for _ in range(20 if quick else 100):
        _, began, ended = nap(NAP_S)
        late.append((ended - began) / 1000 - NAP_S * 1e6)
    figures[f"how late a sleep of {NAP_S * 1000:.0f} ms ends"] = statistics.median(late)
    figures["round trip through two pipes"] = _round_trip(_pipes(), calls // 4)
    figures["round trip through two semaphores"] = _round_trip(_semaphores(), calls // 4)
    return figures


def _pipes() -> tuple[Callable[[], object], Callable[[], object], Callable[[], object], Callable[[], object]]:
    (here, there), (back, again) = os.pipe(), os.pipe()
    return (
        lambda: os.write(there, b"x"),
        lambda: os.read(back, 1),
        lambda: os.read(here, 1),
        lambda: os.write(again, b"x"),
    )


def _semaphores() -> tuple[Callable[[], object], Callable[[], object], Callable[[], object], Callable[[], object]]:
    there, back = multiprocessing.Semaphore(0), multiprocessing.Semaphore(0)
    return there.release, back.acquire, there.acquire, back.release


def _round_trip(ends: tuple[Callable[[], object], ...], calls: int) -> float:
    """Median microseconds for one signal to another process and one back."""
    send, wait, other_waits, other_sends = ends
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            for _ in range(calls):
                other_waits()
                other_sends()
        os._exit(0)
    times = []
    for _ in range(calls):
        began = _now()
        send()
        wait()
        times.append(_now() - began)
    os.waitpid(child, 0)
    return statistics.median(times) / 1000


# -- loads ------------------------------------------------------------------------------------------------------------


class Clocks:
    """CPU time of the caller's thread and of the engine's, of this process, and the kernel's counts of its switches."""

    def __init__(self, engine: threading.Thread) -> None:
        assert engine.ident is not None
        self._engine = time.pthread_getcpuclockid(engine.ident)
        self.caller_ns = time.thread_time_ns()
        self.engine_ns = time.clock_gettime_ns(self._engine)
        self.process_ns = time.process_time_ns()
        used = resource.getrusage(resource.RUSAGE_SELF)
        self.system_s, self.waits, self.preempted = used.ru_stime, used.ru_nvcsw, used.ru_nivcsw


def run_load(name: str, quick: bool, *, samples: bool = False) -> dict[str, Any]:
    """Submit a load one by one and fetch all results; what it took, per task."""
    import mpsteal

    function, arguments, full, _ = LOADS[name]
    tasks = full // 10 if quick else full
    gate = Gate()

    def ask_agents() -> list[dict[str, Any]]:
        answers = pool.map_async(agent_usage, range(AGENTS), chunksize=1)
        gate.open()
        return answers.get()

    with mpsteal.Pool(AGENTS, initializer=begin_agent, initargs=(gate, samples)) as pool:
        engine = pool._engine.thread
        for _ in range(3):
            pool.map(noop, range(64), chunksize=1)
        pool.apply(function, (*arguments(0)[:1], 0) if function is spin_wall else arguments(0))
        sampler = Sampler({threading.get_ident(): "caller", engine.ident: "engine"}) if samples else None
        used_before = ask_agents()
        if sampler is not None:
            sampler.take()
        before = Clocks(engine)
        began = _now()
        handles = [pool.apply_async(function, arguments(i)) for i in range(tasks)]
        submitted, submitted_cpu = _now(), time.thread_time_ns()
        results = [handle.get() for handle in handles]
        ended = _now()
        after = Clocks(engine)
        seen = {} if sampler is None else dict(sampler.take())
        used_after = ask_agents()
    gate.close()
    if results != [function(*arguments(i)) if function is noop else i for i in range(tasks)]:
        raise AssertionError(f"{name}: wrong results")

    def agents(key: str) -> float:
        return float(sum(used[key] for used in used_after) - sum(used[key] for used in used_before))

    figures = {
        "wall": (ended - began) / 1000,
        "caller: submit": (submitted_cpu - before.caller_ns) / 1000,
        "caller: get": (after.caller_ns - submitted_cpu) / 1000,
        "engine": (after.engine_ns - before.engine_ns) / 1000,
        "parent, all threads": (after.process_ns - before.process_ns) / 1000,
        "of it in the kernel": (after.system_s - before.system_s) * 1e6,
        "agents": agents("cpu_ns") / 1000,
        "agents, in the kernel": agents("system_s") * 1e6,
        "switches of the parent": after.waits - before.waits + after.preempted - before.preempted,
        "switches of the agents": agents("waits") + agents("preempted"),
        "inside apply_async, wall": (submitted - began) / 1000,
    }
    figures = {key: value / tasks for key, value in figures.items()}
    if function is spin_wall:
        figures["cores busy (%)"] = 100 * 20 * tasks / AGENTS / ((ended - began) / 1000)
    if samples:
        for used in used_after:
            for line, count in used["samples"].items():
                seen[line] = seen.get(line, 0) + count
        return {"samples": seen}
    return figures


@contextlib.contextmanager
def stages(found: Counter[str]) -> Iterator[None]:
    """Put the CPU clock of the thread around the engine's stages; each is entered once per batch or turn. A stage's
    time is without that of the stages inside it. `selectors` included: what it costs to fall asleep and wake up."""
    import selectors

    from mpsteal._engine.collect import Collector
    from mpsteal._engine.dispatch import Dispatcher
    from mpsteal._engine.loop import Engine
    from mpsteal._queue.arena import Pages

    clock = time.thread_time_ns
    inside: list[int] = [0]
    kept: list[tuple[Any, str, Any]] = []

    def put(owner: Any, method: str, stage: str) -> None:
        original = getattr(owner, method)
        kept.append((owner, method, original))

        def timed(*args: Any, **kwds: Any) -> Any:
            inside.append(0)
            began = clock()
            try:
                return original(*args, **kwds)
            finally:
                took = clock() - began
                found[stage] += took - inside.pop()
                found[f"#{stage}"] += 1
                inside[-1] += took

        setattr(owner, method, timed)

    put(Dispatcher, "_pickle", "engine: pickle, or put into the slot")
    put(Pages, "append", "engine: write slots and payloads")
    put(Dispatcher, "_place", "engine: push, fence, ring")
    put(Dispatcher, "flush", "engine: batches")
    put(Collector, "_collect", "engine: read, unpickle, resolve")
    put(Collector, "wake", "engine: wake waiting threads")
    put(selectors.DefaultSelector, "select", "engine: sleep and wake up")
    put(Engine, "_turn", "engine: rest of a turn")
    try:
        yield
    finally:
        for owner, method, original in kept:
            setattr(owner, method, original)


def run_stages(name: str, quick: bool) -> dict[str, float]:
    """The engine's stages of a load, microseconds per task. The rest of its thread's time is named as such."""
    found: Counter[str] = Counter()
    with stages(found):
        figures = run_load(name, quick)
    tasks = LOADS[name][2] // (10 if quick else 1)
    answer = {"caller: submit": figures["caller: submit"], "caller: get": figures["caller: get"]}
    answer |= {stage: ns / tasks / 1000 for stage, ns in found.items() if stage[0] != "#"}
    for stage, what in (
        ("engine: push, fence, ring", "batches"),
        ("engine: sleep and wake up", "sleeps, or looks without one"),
        ("engine: wake waiting threads", "wakes of the waiting thread"),
    ):
        answer[f"per 1,000 tasks: {what}"] = found[f"#{stage}"] / tasks * 1000
    return answer


def run_submit(quick: bool) -> dict[str, float]:
    """CPU microseconds of `apply_async` alone, into a pool without engine or agents, and the collector's part of it."""
    import gc
    from collections import deque
    from types import SimpleNamespace

    from mpsteal import pool as of_pools

    tasks = 10_000 if quick else 100_000

    def submit_all() -> float:
        pool: Any = of_pools.Pool.__new__(of_pools.Pool)
        pool._engine = SimpleNamespace(pending=deque(), asleep=[], state=of_pools._ENGINE_RUN)
        pool._state = of_pools.RUN
        began = time.thread_time_ns()
        handles = [pool.apply_async(noop, (i,)) for i in range(tasks)]
        took = time.thread_time_ns() - began
        pool._state = "ended"
        return took / len(handles) / 1000

    with_collector = submit_all()
    gc.disable()
    without = submit_all()
    gc.enable()
    return {"apply_async alone": with_collector, "of it the garbage collector": with_collector - without}


# -- the agent's loop, piece by piece ---------------------------------------------------------------------------------


def run_agent(quick: bool) -> dict[str, float]:
    """Microseconds of the pieces of the agent's loop, over chunks in a real segment; one process, nobody else."""
    from array import array

    from mpsteal._agent.loop import SLOTS_AHEAD
    from mpsteal._agent.serialize import is_flat
    from mpsteal._policy.stealing import steal_point
    from mpsteal._queue import layout as L
    from mpsteal._queue import results as R
    from mpsteal._queue.arena import Blocks, Pages, Segment
    from mpsteal._queue.barrier import load_barrier, register
    from mpsteal._queue.deque import Deques
    from mpsteal._queue.locks import Locks, lock_files

    barrier = load_barrier()
    segment = Segment.create(L.Geometry(AGENTS), AGENTS)
    fds = list(lock_files(AGENTS, AGENTS))
    locks = Locks(fds, AGENTS, barrier, owner_is_fenced=barrier is not None and register())
    deques = Deques(segment.words, segment.layout, locks, steal_point)
    words, data = segment.words, segment.data
    pages = Pages(segment, Blocks(segment, 0))
    dumps, loads = pickle.dumps, pickle.loads
    reader = R.ResultReader(segment, 0, locks)

    def unreachable(head: int) -> None:
        raise AssertionError(f"the ring is full at {head}")

    writer = R.ResultWriter(segment, 0, locks, unreachable)
    write_small, write_value = writer.make_write_small(), writer.make_write_value()
    take = deques.make_take(0)
    started, loaded = segment.layout.agent(0) + L.STARTED_NS, segment.layout.agent(0) + L.LOADED
    functions = {0: noop}
    agent = _make_agent(segment, locks, deques, writer)
    rounds: list[dict[str, float]] = []
    for _ in range(3 if quick else 15):
        page = pages.open()
        assert page is not None
        at, payload, slots = pages.slab_at(page), b"", array("q")
        for i in range(PIECES):
            one = dumps(((i, "name"),), 5)
            slots.extend((at + len(payload), len(one), 0, L.KIND_CALL))
            payload += one
        first = pages.append(page, slots, payload, [None] * PIECES)
        deques.push(0, 0, first, first + PIECES)
        numbers = range(first, first + PIECES)
        found: dict[str, float] = {}
        marks = [_now()]

        def stamp(piece: str, found: dict[str, float] = found, marks: list[int] = marks) -> None:
            found[piece] = (_now() - marks[-1]) / PIECES / 1000
            marks.append(_now())

        for _ in numbers:
            pass
        stamp("an empty loop")
        for _ in numbers:
            take()
        stamp("take: claim, look for a thief, commit")
        read: list[tuple[int, ...]] = []
        for chunk in range(first, first + PIECES, SLOTS_AHEAD):
            read += agent.read_slots(chunk)
        stamp("read the slot")
        for chunk in numbers:
            words[started] = time.monotonic_ns()
            words[loaded] = chunk
            time.monotonic_ns()
        stamp("two clocks, two words of what runs")
        for offset, size, _, _ in read:
            loads(data[offset : offset + size])
        stamp("unpickle the arguments (pickled)")
        for number in numbers:
            functions[0](number)
        stamp("call the function")
        for chunk in numbers:
            write_small(chunk, R.INT, chunk)
        stamp("commit a small int")
        for _ in reader.drain():
            pass
        marks.append(_now())
        results = [(number, "name") for number in numbers]
        marks.append(_now())
        encoded = [dumps(value) for value in results if is_flat(value, tuple)]
        stamp("pickle the result (pickled)")
        for chunk, one in zip(numbers, encoded, strict=True):
            write_value(chunk, one)
        stamp("commit a pickled result (pickled)")
        for _ in reader.drain():
            pass
        for chunk in numbers:
            pages.finish(chunk)
        if take() >= 0:
            raise AssertionError("more chunks were taken than pushed")
        for name, (load, arguments, _, _) in LOADS.items():
            if load is not noop:
                continue
            page = pages.open()
            assert page is not None
            at, payload, slots = pages.slab_at(page), b"", array("q")
            for i in range(PIECES):
                (value,) = arguments(i)
                if type(value) is int:
                    slots.extend((value, 0, 0, L.KIND_INT))
                else:
                    one = dumps((value,), 5)
                    slots.extend((at + len(payload), len(one), 0, L.KIND_CALL))
                    payload += one
            first = pages.append(page, slots, payload, [None] * PIECES)
            deques.push(0, 0, first, first + PIECES)
            marks.append(_now())
            agent.serve()
            stamp(f"the whole loop, {name}")
            if sum(1 for _ in reader.drain()) != PIECES:
                raise AssertionError(f"{name}: results are missing")
            for chunk in range(first, first + PIECES):
                pages.finish(chunk)
        empty = found.pop("an empty loop")
        rounds.append({piece: max(0.0, us - empty) for piece, us in found.items()})
    figures = {piece: statistics.median(one[piece] for one in rounds) for piece in rounds[0]}
    locks.lock(0)
    locks.unlock(0)
    figures["the first of a range: lock and unlock"] = per_call(lambda: (locks.lock(0), locks.unlock(0)), 2_000)
    figures["a fence"] = per_call(locks.fence, 2_000)
    segment.close()
    for fd in fds:
        os.close(fd)
    return figures


def _make_agent(segment: Any, locks: Any, deques: Any, writer: Any) -> Any:
    """An agent without a process of its own, whom nobody awaits; its `serve` returns when nothing is queued."""
    from types import SimpleNamespace

    from mpsteal._agent.loop import Agent
    from mpsteal._agent.serialize import Encoder
    from mpsteal._queue import layout as L

    agent: Any = Agent.__new__(Agent)
    agent.spec, agent.slot, agent.rules, agent.for_executor = SimpleNamespace(max_tasks=None), 0, None, False
    agent.segment, agent.words, agent.base = segment, segment.words, segment.layout.agent(0)
    agent.locks, agent.deques, agent.results, agent.encoder = locks, deques, writer, Encoder()
    agent.unusual, agent.functions = [], {0: noop}
    agent.take = deques.make_take(0)
    agent.find_work = bool  # nothing is queued: leave
    agent.ring_parent = agent.check_parent = lambda: None
    segment.words[L.RING_AFTER_NS] = 1 << 60
    return agent


# -- skew -------------------------------------------------------------------------------------------------------------


def run_skew(kind: str, quick: bool) -> dict[str, float]:
    """The makespan of a plain map of uneven items, taken apart; percent of the bound."""
    import mpsteal
    from bench.workloads import skew

    sleepers, planned = skew.SLEEPERS, [seconds / (4 if quick else 1) for seconds in skew.lengths(kind)]
    with mpsteal.Pool(sleepers) as pool:
        for _ in range(3):
            pool.map(noop, range(sleepers * 32), chunksize=1)
        began = time.monotonic_ns()
        naps = pool.map(nap, planned)
        ended = time.monotonic_ns()
    by_agent: dict[int, list[tuple[int, int]]] = {}
    for pid, start, end in naps:
        by_agent.setdefault(pid, []).append((start, end))
    start_ns = gaps_ns = end_ns = 0
    last = max(end for _, _, end in naps)
    for spans in by_agent.values():
        spans.sort()
        start_ns += spans[0][0] - began
        gaps_ns += sum(later[0] - earlier[1] for earlier, later in itertools.pairwise(spans))
        end_ns += last - spans[-1][1]
    bound_ns = skew.bound(planned) * 1e9
    # One that had nothing at all was idle from the beginning to the end.
    idle_ns = (sleepers - len(by_agent)) * (last - began)
    late_ns = sum(end - start for _, start, end in naps) - sum(planned) * 1e9
    parts = {
        "late sleeps": late_ns / sleepers,
        "before the first item": start_ns / sleepers,
        "between items": gaps_ns / sleepers,
        "idle at the end": (end_ns + idle_ns) / sleepers,
        "from the last item to the result": ended - last,
        "makespan": ended - began,
    }
    return {name: 100 * ns / bound_ns for name, ns in parts.items()}


# -- the command ------------------------------------------------------------------------------------------------------

PARTS: dict[str, Callable[[bool], dict[str, Any]]] = {
    "floor": measure_floor,
    **{f"load-{name}": lambda quick, name=name: run_load(name, quick) for name in LOADS},
    **{f"stages-{name}": lambda quick, name=name: run_stages(name, quick) for name in LOADS},
    "submit": run_submit,
    "agent": run_agent,
    **{f"where-{name}": lambda quick, name=name: run_load(name, quick, samples=True) for name in LOADS},
    **{f"skew-{kind}": lambda quick, kind=kind: run_skew(kind, quick) for kind in ("first", "block", "tail")},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``python -m bench profile``."""
    parser.add_argument("--rounds", type=int, help="rounds per part (default 5, with --quick 1)")
    parser.add_argument("--quick", action="store_true", help="small sizes, to try it")
    parser.add_argument("--only", nargs="+", default=[], metavar="PART", help=f"of: {', '.join(PARTS)}")
    parser.add_argument("--cores", type=int, default=2, help="confine each run to so many (2)")
    parser.add_argument("--json", type=Path, metavar="PATH", help=f"a full run writes {BASELINE.name}, others nothing")


def run(args: argparse.Namespace) -> int:
    """Return 0 if every part gave an answer, else 1; usage errors exit 2."""
    unknown = [name for name in args.only if not any(part.startswith(name) for part in PARTS)]
    if unknown:
        print(f"no part called {', '.join(unknown)}; there are: {', '.join(PARTS)}", file=sys.stderr)
        return 2
    chosen = [part for part in PARTS if not args.only or any(part.startswith(name) for name in args.only)]
    rounds = args.rounds or (1 if args.quick else 5)
    began = time.monotonic()
    samples: dict[str, list[dict[str, Any]]] = {part: [] for part in chosen}
    failed = 0
    for number in range(rounds):
        for part in chosen:
            answer = measure_once(part, quick=args.quick, cores=args.cores)
            failed += answer is None
            if answer is not None:
                samples[part].append(answer)
            print(f"  {part} round {number + 1}: {'failed' if answer is None else 'done'}", file=sys.stderr, flush=True)
    print("\n".join(report(samples)))
    print(f"{rounds} rounds, {failed} runs failed, {time.monotonic() - began:.0f} s")
    path = args.json or (None if args.only or args.quick else BASELINE)
    if path is not None:
        path.write_text(json.dumps(document(samples, rounds=rounds, cores=args.cores), indent=1) + "\n")
        print(f"written: {path}")
    return 1 if failed else 0


def measure_once(part: str, *, quick: bool, cores: int) -> dict[str, Any] | None:
    """One part in a process of its own; None if it gave no answer, and then its error is on standard error."""
    command = [sys.executable, "-c", "from bench import profile; profile.child()", part, str(cores), str(int(quick))]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        print(f"{part}: no answer within {LIMIT_S:.0f} s", file=sys.stderr)
        return None
    if done.returncode or done.stderr.strip():
        print(done.stderr.rstrip(), file=sys.stderr)
    try:
        answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        return None
    return answer


def child() -> None:
    """The process of one part: its name, cores and `quick` are the arguments; one line of JSON is the answer."""
    part, cores, quick = sys.argv[1:4]
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(cores)])
    print(json.dumps(PARTS[part](quick == "1")))


def spread(values: list[float]) -> tuple[float, float, float]:
    """Median, least and greatest."""
    return statistics.median(values), min(values), max(values)


def merged(part: str, rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """All rounds of one part: figures with their samples, or all that the sampler saw, in percent of its thread."""
    if not part.startswith("where-"):
        return {key: [one[key] for one in rounds] for key in rounds[0]}
    seen: Counter[str] = Counter()
    for one in rounds:
        seen.update(one["samples"])
    totals: Counter[str] = Counter()
    for line, count in seen.items():
        totals[line.partition("|")[0]] += count
    shown: dict[str, Any] = {}
    for thread, total in sorted(totals.items()):
        lines = Counter({line: count for line, count in seen.items() if line.startswith(f"{thread}|")})
        for line, count in lines.most_common(LINES_SHOWN):
            shown[line] = round(100 * count / total, 1)
        shown[f"{thread}|samples"] = total
    return shown


def report(samples: dict[str, list[dict[str, Any]]]) -> list[str]:
    """The table: per part its figures, the median and the range over the rounds; then the ratios to the floor."""
    lines: list[str] = []
    found = {part: merged(part, rounds) for part, rounds in samples.items() if rounds}
    for part, figures in found.items():
        name = part.partition("-")[2]
        lines += ["", f"{part}: {LOADS[name][3]}" if name in LOADS else part]
        for key, values in figures.items():
            if part.startswith("where-"):
                lines.append(f"  {values:>8} {'' if key.endswith('|samples') else '%'} {key}")
            else:
                median, least, most = spread(values)
                lines.append(f"  {median:9.3f}  ({least:.3f} .. {most:.3f})  {key}")
    for name in LOADS:
        ratio = ratio_to_floor(found, name)
        if ratio:
            lines += ["", ratio]
    return lines


def ratio_to_floor(found: dict[str, dict[str, Any]], name: str) -> str:
    """What one task takes of both cores, beside the floor of the same run; empty if a part is missing."""
    load, floor = found.get(f"load-{name}"), found.get("floor")
    key = f"pickle + unpickle + call, {name}"
    if load is None or floor is None or key not in floor:
        return ""
    cpu = spread(load["parent, all threads"])[0] + spread(load["agents"])[0]
    wall, least = spread(load["wall"])[0], spread(floor[key])[0]
    return (
        f"{name}: {cpu:.2f} us of CPU and {wall:.2f} us of wall time per task; the floor is {least:.2f} and, "
        f"on {AGENTS} cores, {least / AGENTS:.2f}: {cpu / least:.1f} and {AGENTS * wall / least:.1f} times"
    )


def document(samples: dict[str, list[dict[str, Any]]], *, rounds: int, cores: int) -> dict[str, Any]:
    """What is stored: every sample, and what the figures depend on."""
    return {
        "schema": SCHEMA,
        "made": _machine.now(),
        "command": "python -m " + " ".join(["bench", *sys.argv[1:]]),
        "machine": _machine.describe(),
        "cores": cores,
        "rounds": rounds,
        "unit": "us per task; parts skew-*: percent of the bound; where-*: percent of the samples of a thread",
        "parts": {part: merged(part, found) for part, found in samples.items() if found},
    }
