"""How many threads libraries of linear algebra may use within one agent.

Each of them takes all CPUs for itself, as if it were alone; with an agent for every CPU that is n * n threads for n
CPUs. They read variables of the environment when they are loaded. Those loaded already (under fork with the parent's
modules, under forkserver with the server's) are told by threadpoolctl, where that is installed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any

VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)
"""What OpenMP, OpenBLAS, MKL, BLIS, Accelerate, numexpr and numba look at, by their documentation."""

USERS = ("numpy", "scipy", "torch", "numexpr", "numba", "tensorflow", "jax")
"""Modules that come with such a library. Without any of them nothing is loaded, and threadpoolctl, whose import takes
15 ms, need not look."""

_controllers: dict[str, Any] = {}


def variables(wanted: int | None, environ: Mapping[str, str], *, override: bool) -> dict[str, str]:
    """What an agent's environment is to say.

    Args:
        wanted: threads; None: nothing is said.
        environ: the parent's. What a user has set there stays, unless `override` says that this was asked for.
    """
    if wanted is None:
        return {}
    return {name: str(wanted) if override else environ.get(name, str(wanted)) for name in VARIABLES}


def look() -> None:
    """In the parent, before agents are forked: find what is loaded, which takes 2 ms, once for all of them."""
    _controllers.clear()
    controller = _find()
    if controller is not None:
        _controllers["found"] = controller


def limit(wanted: int) -> None:
    """In the agent: tell the libraries that are loaded. Those that use no more already are left alone."""
    controller = _controllers.get("found") or _find()
    if controller is None:
        return
    if any((library.num_threads or 0) > wanted for library in controller.lib_controllers):
        controller.limit(limits=wanted)  # for good: nobody leaves this `with` block


def _find() -> Any:
    if not any(name in sys.modules for name in USERS):
        return None
    try:
        return import_module("threadpoolctl").ThreadpoolController()
    except Exception:  # not installed; or a library that it cannot read
        return None


def set_environment(names: Mapping[str, str]) -> None:
    """In the agent, before anything of the user's is imported, where that can be."""
    environ: Any = os.environ
    try:
        told = {environ.encodekey(name): environ.encodevalue(value) for name, value in names.items()}
        own: dict[bytes, bytes] = environ._data
    except AttributeError:  # no public part of `os.environ`
        environ.update(names)
        return
    # As `update` does it, without its ten Python calls for each name: 0.1 ms of an agent's first task.
    for key, value in told.items():
        os.putenv(key, value)
    own.update(told)
