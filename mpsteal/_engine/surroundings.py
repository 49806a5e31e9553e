"""What each agent's process is given beside its work, decided in the parent; see `_agent/surroundings.py`."""

from __future__ import annotations

import operator
import os

from .._agent import inner_threads, logs
from .._agent.surroundings import Surroundings
from .cpus import allowed_cpus, usable_cpus
from .logs import LogReader

AUTO = "auto"


def check_inner_threads(wanted: int | str | None) -> int | str | None:
    """`inner_threads` as it may be given. Raises ValueError for anything else."""
    if wanted is None or wanted == AUTO:
        return wanted
    try:
        count = operator.index(wanted)  # type: ignore[arg-type]  # what has no __index__ is told below
    except TypeError:
        count = 0
    if count < 1 or isinstance(wanted, bool):
        raise ValueError(f"inner_threads must be a positive int, {AUTO!r} or None, not {wanted!r}")
    return count


class Outfitter:
    """Makes `Surroundings`.

    Args:
        threads: see `check_inner_threads`.
        agents: how many there will be, as far as is known.
        reader: where their records go; None: nowhere.
        method: the start method.
    """

    def __init__(self, threads: int | str | None, agents: int, reader: LogReader | None, method: str) -> None:
        self._threads, self._agents, self._reader, self._method = threads, agents, reader, method
        self._cpus = 0
        if threads == AUTO:
            # Where each agent gets one thread anyhow, the quota changes nothing, and is not looked for at every start.
            self._cpus = allowed_cpus()
            if self._cpus > agents:
                self._cpus = usable_cpus()
        if method == "fork" and threads is not None:
            inner_threads.look()
        if method == "fork" and reader is not None:
            logs.prepare()

    def outfit(self, agents: int) -> Surroundings:
        """For one more agent; `agents` are there with it."""
        if self._threads == AUTO:
            wanted: int | None = max(1, self._cpus // max(1, agents, self._agents))
        else:
            wanted = self._threads  # type: ignore[assignment]  # an int or None
        is_own = self._threads == AUTO and any(name in os.environ for name in inner_threads.VARIABLES)
        # Under spawn the variables are there before any library is loaded.
        limits = wanted is not None and not is_own and self._method != "spawn"
        return Surroundings(
            environment=inner_threads.variables(wanted, os.environ, override=self._threads != AUTO),
            inner_threads=wanted if limits else None,
            logs=None if self._reader is None else self._reader.for_agents,
            levels=None if self._method == "fork" or self._reader is None else logs.levels_here(),
        )
