"""The backend itself, see `joblib.py`; the only module that imports joblib as it is imported.

A batch of joblib's is one call of a pool. How many calls of the user's are in one follows from how long they take in an
agent, not from how long they are away. So batches stay short, and stealing can spread them:

    Parallel --submit--> pickle --> pool.apply_async --> callback --> Parallel: takes the result, submits the next

The pool is kept for the next `Parallel`, see `_Kept`.
"""

from __future__ import annotations

import atexit
import os
import pickle
import threading
import warnings
from functools import partial
from multiprocessing import current_process
from typing import Any

from joblib import cpu_count
from joblib._parallel_backends import FallbackToBackend, SequentialBackend
from joblib.parallel import ParallelBackendBase

from ._agent.apart import ApartContext
from ._agent.inner_threads import VARIABLES
from ._agent.serialize import decode_error
from ._engine.surroundings import AUTO
from .joblib import dumps, prepare_agent, run_batch
from .pool import RUN, TERMINATE, Pool

BATCH_NS = 5_000_000
"""What a batch should take (ns). Shorter: its own cost of some 0.1 ms shows; longer: a batch whose calls turn out heavy
holds up more of them, since one that has started is not split."""

GROWTH = 4
"""A batch is at most so many times as large as one that has been seen to be short. Less: many small batches at the
beginning; more: one that was odd decides."""

IDLE_S = 300.0
"""How long agents are kept for the next `Parallel` (s), as loky keeps its workers. Shorter: they are started and import
everything again; longer: their memory is held for nothing."""

_JOBLIBS_OWN = ("context", "max_nbytes", "mmap_mode", "prefer", "require", "temp_folder", "verbose")
"""What joblib hands to every backend: for memory maps, which we do without, and for its own choice."""


class MpstealBackend(ParallelBackendBase):  # type: ignore[misc]  # untyped
    """Runs the batches of `joblib.Parallel` in a `Pool`.

    Args:
        idle_worker_timeout: seconds that agents are kept without work.
        context: start method of the agents, by name or as a `multiprocessing` context; None: `spawn`, but without
            the program's main module.
        initializer, initargs: called in each agent as it starts.
        options: whatever else `Pool` takes.
    """

    supports_retrieve_callback = True
    supports_inner_max_num_threads = True

    def __init__(
        self, nesting_level: int | None = None, inner_max_num_threads: int | None = None, **options: Any
    ) -> None:
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        self._options = options
        self._wanted: _Wanted | None = None
        self._kept: _Kept | None = None
        self._idle_s = IDLE_S
        self._calls: set[_Call] = set()
        self._batch_size = 1
        self._mean_ns = 0.0

    # -- what joblib asks -------------------------------------------------------------------------------------------

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """How many agents there will be: of a negative number all CPUs but `-n_jobs - 1`."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None or n_jobs == 1:
            return 1
        why = None
        if current_process().daemon:
            why = "in a daemonic process, which may have no children"
        elif not (self.in_main_thread() or self.nesting_level == 0):
            why = "nested below threads"
        if why is not None:
            warnings.warn(f"mpsteal-backed parallel loops cannot run {why}, setting n_jobs=1", stacklevel=3)
            return 1
        return max(cpu_count() + 1 + n_jobs, 1) if n_jobs < 0 else n_jobs

    def configure(self, n_jobs: int = 1, parallel: Any = None, **options: Any) -> int:
        """A `Parallel` begins: how many agents it gets."""
        n_jobs = self.effective_n_jobs(n_jobs)
        if n_jobs == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        self.parallel = parallel
        options = {name: value for name, value in options.items() if name not in _JOBLIBS_OWN}
        options = {**self._options, **options}
        self._idle_s = options.pop("idle_worker_timeout", IDLE_S)
        self._wanted = _Wanted(n_jobs, self.inner_max_num_threads, options)
        self._batch_size, self._mean_ns = 1, 0.0
        with _lock:
            self._kept = _keep(self._wanted)
        return n_jobs

    def compute_batch_size(self) -> int:
        """How many calls the next batch is to have."""
        return self._batch_size

    def submit(self, func: Any, callback: Any = None) -> None:
        """Send a batch; `callback` gets what `retrieve_result_callback` then takes apart."""
        call = _Call(callback)
        try:
            # Here, in the thread that submits: what cannot be pickled is the batch's own outcome.
            sent = dumps(func)
            with _lock:
                kept = self._kept
                if kept is None or not kept.is_running:  # it was idle for too long, or ended by another
                    kept = self._kept = _keep(self._wanted)
                ended = partial(self._ended, kept, call, len(func))
                call.handle = kept.pool.apply_async(run_batch, sent, callback=ended, error_callback=ended)
                kept.calls += 1
                self._calls.add(call)
        except BaseException as error:
            if not isinstance(error, Exception):
                raise
            callback(error)

    apply_async = submit  # its name until joblib 1.4

    def _ended(self, kept: _Kept, call: _Call, size: int, outcome: Any) -> None:
        """A batch is over. In the pool's thread for callbacks, which then runs what `Parallel` does with it."""
        with _lock:
            kept.calls -= 1
            self._calls.discard(call)
        if not isinstance(outcome, BaseException) and outcome[0]:
            self._observe(size, outcome[3])
        call.callback(outcome)

    def _observe(self, size: int, elapsed_ns: int) -> None:
        mean = elapsed_ns / size
        self._mean_ns = mean = (self._mean_ns + mean) / 2 if self._mean_ns else mean
        wanted = max(1, int(BATCH_NS / max(1.0, mean)))
        now = self._batch_size
        self._batch_size = wanted if wanted < now else max(now, min(wanted, GROWTH * size))

    def retrieve_result_callback(self, out: Any) -> Any:
        """The results of a batch, from what its callback was given; raises what it raised."""
        if isinstance(out, BaseException):
            raise out
        ok, payload, buffers, _ = out
        if ok:
            return pickle.loads(payload, buffers=buffers)
        raise decode_error(payload)

    def abort_everything(self, ensure_ready: bool = True) -> None:  # noqa: ARG002 - it is ready all the same
        """A `Parallel` has failed or is given up: take its batches out of the queue, and end those that run."""
        with _lock:
            given_up = [call for call in self._calls if call.is_given_up()]
        running = [
            call for call in given_up if not call.handle.cancel()
        ]  # first: else agents that are replaced run these
        for call in running:
            call.handle.cancel(end_running=True)

    def terminate(self) -> None:
        """A `Parallel` is over."""
        if self._kept is not None:
            self._kept.rest(self._idle_s)


class _Call:
    """A batch in flight."""

    __slots__ = ("callback", "handle")

    handle: Any

    def __init__(self, callback: Any) -> None:
        self.callback = callback

    def is_given_up(self) -> bool:
        """Whether the `Parallel` that sent it does not want it any more; several may share a backend."""
        return bool(getattr(getattr(self.callback, "parallel", None), "_aborting", True))


# -- the pool that is kept ------------------------------------------------------------------------------------------


class _Wanted:
    """What a pool has to be like."""

    def __init__(self, n_jobs: int, threads: int | None, options: dict[str, Any]) -> None:
        self.n_jobs, self.options = n_jobs, options
        self.threads = AUTO if threads is None else threads
        self.environment = [os.environ.get(name) for name in VARIABLES]  # which says more where it is AUTO

    def is_like(self, other: _Wanted) -> bool:
        try:
            return bool(vars(self) == vars(other))
        except Exception:  # arrays among the initargs, say
            return False

    def start(self) -> Pool:
        options = dict(self.options)
        initializer, initargs = options.pop("initializer", None), tuple(options.pop("initargs", ()))
        context = options.pop("context", None) or ApartContext()
        starter = None
        if initializer is not None:
            # By value where it has to be, like what it prepares for.
            data, buffers = dumps((initializer, initargs))
            starter = data if not buffers else pickle.dumps((initializer, initargs))
        options.setdefault("inner_threads", self.threads)
        return Pool(self.n_jobs, prepare_agent, (starter,), context=context, **options)


class _Kept:
    """A pool that outlives the `Parallel` it was started for. Its fields belong to who holds `_lock`."""

    def __init__(self, wanted: _Wanted) -> None:
        self.wanted = wanted
        self.pool = wanted.start()
        self.calls = 0
        """Batches in flight."""
        self._timer: threading.Timer | None = None

    @property
    def is_running(self) -> bool:
        return self.pool._state == RUN

    def rest(self, idle_s: float) -> None:
        """Nobody needs it now: end it in a while."""
        with _lock:
            self.work()
            if self.is_running:
                self._timer = timer = threading.Timer(idle_s, self._end_if_idle)
                timer.daemon = True
                timer.name = "mpsteal-joblib-idle"
                timer.start()

    def work(self) -> None:
        """Somebody needs it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end_if_idle(self) -> None:
        with _lock:
            if self._timer is threading.current_thread() and not self.calls:
                self.end()

    def end(self) -> None:
        """Have its agents end. Does not wait: a callback of the pool's may need `_lock`."""
        self.work()
        if self in _all:
            _all.remove(self)
        self.pool._state = TERMINATE
        self.pool._engine.terminate()


_lock = threading.RLock()
_all: list[_Kept] = []


def _keep(wanted: Any) -> _Kept:
    """A pool as it is wanted: one that is there, or a new one. Others that are idle end. Under `_lock`."""
    for kept in _all:
        if kept.is_running and kept.wanted.is_like(wanted):
            kept.work()
            return kept
    for kept in _all[:]:
        if not kept.calls:
            kept.end()
    kept = _Kept(wanted)
    _all.append(kept)
    return kept


def shutdown() -> None:
    """See `shutdown_joblib`."""
    with _lock:
        ending = _all[:]
        for kept in ending:
            kept.end()
    for kept in ending:
        kept.pool.join()


def _forget() -> None:
    global _lock
    _lock = threading.RLock()  # somebody may have held it
    _all.clear()


os.register_at_fork(after_in_child=_forget)
atexit.register(shutdown)
