"""mpsteal as a backend of joblib, and so of scikit-learn: `mpsteal.register_joblib()`.

    joblib.Parallel --batches--> MpstealBackend (_joblib_backend.py) --pickled--> Pool --> run_batch, in an agent

Agents import this module before anything else of joblib's. It imports joblib only when it is asked to, so that mpsteal
can be used without.
"""

from __future__ import annotations

import pickle
import sys
import time
from collections.abc import Callable
from typing import Any

from ._agent.serialize import PROTOCOL, encode_error

IN_BAND_BYTES = 1 << 16
"""Buffers below this are pickled with the rest. Smaller: more small parts for each batch; larger: more copies."""


def register_joblib(*, make_default: bool = False) -> None:
    """Make the backend "mpsteal" known to joblib: `with joblib.parallel_config(backend="mpsteal")`.

    Args:
        make_default: use it wherever no backend is named, too.

    Raises:
        ImportError: joblib is not installed.
    """
    try:
        import joblib
    except ImportError as error:
        raise ImportError('mpsteal.register_joblib needs joblib: pip install "mpsteal[joblib]"') from error
    from ._joblib_backend import MpstealBackend

    joblib.register_parallel_backend("mpsteal", MpstealBackend, make_default=make_default)


def shutdown_joblib() -> None:
    """End the agents that are kept for the next `Parallel` call; those of a call that runs raise `PoolTerminatedError`.

    They end by themselves after a while, and with the program.
    """
    backend = sys.modules.get("mpsteal._joblib_backend")
    if backend is not None:
        backend.shutdown()


def dumps(value: Any) -> tuple[bytes, list[pickle.PickleBuffer]]:
    """Pickle by name what has one, and by value what has none or is of `__main__`, which agents do not have.

    Large buffers are left apart, for the pool to move.
    """
    buffers: list[pickle.PickleBuffer] = []

    def keep(buffer: pickle.PickleBuffer) -> bool:
        if buffer.raw().nbytes < IN_BAND_BYTES:
            return True
        buffers.append(buffer)
        return False

    try:
        data = pickle.dumps(value, PROTOCOL, buffer_callback=keep)
        if b"__main__" not in data:
            return data, buffers
    except Exception:  # a lambda, a closure; or no pickle at all, and then the second try says so
        pass
    buffers.clear()
    return _cloudpickle().dumps(value, PROTOCOL, buffer_callback=keep), buffers


def _cloudpickle() -> Any:
    try:
        import cloudpickle
    except ImportError:  # joblib needs it from 1.6 on, and brings its own before
        from joblib.externals import cloudpickle
    return cloudpickle


# -- in the agent ---------------------------------------------------------------------------------------------------


class _ByValue:
    """What `encode_error` wants of an encoder."""

    @staticmethod
    def dumps(value: Any) -> bytes:
        data: bytes = _cloudpickle().dumps(value, PROTOCOL)
        return data


def prepare_agent(starter: bytes | None) -> None:
    """The initializer: tasks may name the backend as well. Then the user's own."""
    register_joblib()
    if starter is not None:
        initializer, initargs = pickle.loads(starter)
        initializer(*initargs)


def run_batch(data: bytes, buffers: list[Any]) -> tuple[bool, Any, list[Any], int]:
    """Run one batch: whether it went well, its pickled results or error, buffers, and how long it took (ns)."""
    begun_ns = time.monotonic_ns()
    batch: Callable[[], Any] = pickle.loads(data, buffers=buffers)
    try:
        results = batch()
        elapsed_ns = time.monotonic_ns() - begun_ns
        return (True, *dumps(results), elapsed_ns)
    except BaseException as error:
        return (False, encode_error(error, _ByValue()), [], 0)  # type: ignore[arg-type]  # it only dumps
