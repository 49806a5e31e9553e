"""mpsteal: a process pool for CPU-bound Python that people can trust.

A drop-in for `multiprocessing.Pool` that balances itself by work stealing and never hangs when a process dies.

Layers, each importing only what stands below it:

    pool, executor,  ->  _engine (one thread in the parent)  ->  _agent (worker processes)
    scheduler                                                ->  _queue (shared memory), _policy (pure decisions)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._agent.shared import Shared
    from ._engine.balance import Rebalancing
    from ._executor_future import ExecutorFuture
    from .agents import Agent
    from .aio import AsyncIMapIterator, AsyncPool
    from .context import get_context
    from .errors import (
        AgentDiedError,
        AgentStartError,
        ConfigError,
        DeadlineWarning,
        DependencyError,
        MpstealError,
        PoolTerminatedError,
        RemoteError,
        SegmentFullError,
        SharedObjectError,
        TaskCancelledError,
        TaskTimeoutError,
        TransferError,
        UnmatchedTaskError,
    )
    from .executor import Executor, ExecutorView
    from .inside import CurrentAgent, agent_state, current_agent, current_pool
    from .joblib import register_joblib, shutdown_joblib
    from .metrics import WorkStealingMetrics
    from .outcomes import Failure
    from .pool import Pool
    from .results import AsyncResult, IMapIterator, IMapUnorderedIterator, MapResult
    from .scheduler import WorkStealingScheduler
    from .stats import AgentStats, PoolStats
    from .tasks import Task

__version__ = "0.1.0"

__all__ = [
    "Agent",
    "AgentDiedError",
    "AgentStartError",
    "AgentStats",
    "AsyncIMapIterator",
    "AsyncPool",
    "AsyncResult",
    "ChildMapResult",
    "ChildResult",
    "ConfigError",
    "CurrentAgent",
    "DeadlineWarning",
    "DependencyError",
    "Executor",
    "ExecutorFuture",
    "ExecutorView",
    "Failure",
    "IMapIterator",
    "IMapUnorderedIterator",
    "MapResult",
    "MpstealError",
    "Pool",
    "PoolStats",
    "PoolTerminatedError",
    "Rebalancing",
    "RemoteError",
    "SegmentFullError",
    "Shared",
    "SharedObjectError",
    "Task",
    "TaskCancelledError",
    "TaskPool",
    "TaskTimeoutError",
    "TransferError",
    "UnmatchedTaskError",
    "WorkStealingMetrics",
    "WorkStealingScheduler",
    "agent_state",
    "current_agent",
    "current_pool",
    "get_context",
    "register_joblib",
    "shutdown_joblib",
]

_HOMES = {
    "_agent.task_pool": ("ChildMapResult", "ChildResult", "TaskPool"),
    "_agent.shared": ("Shared",),
    "agents": ("Agent",),
    "aio": ("AsyncIMapIterator", "AsyncPool"),
    "_engine.balance": ("Rebalancing",),
    "context": ("get_context",),
    "errors": (
        "AgentDiedError",
        "AgentStartError",
        "ConfigError",
        "DeadlineWarning",
        "DependencyError",
        "MpstealError",
        "PoolTerminatedError",
        "RemoteError",
        "SegmentFullError",
        "SharedObjectError",
        "TaskCancelledError",
        "TaskTimeoutError",
        "TransferError",
        "UnmatchedTaskError",
    ),
    "executor": ("Executor", "ExecutorView"),
    "_executor_future": ("ExecutorFuture",),
    "inside": ("CurrentAgent", "agent_state", "current_agent", "current_pool"),
    "joblib": ("register_joblib", "shutdown_joblib"),
    "metrics": ("WorkStealingMetrics",),
    "outcomes": ("Failure",),
    "pool": ("Pool",),
    "results": ("AsyncResult", "IMapIterator", "IMapUnorderedIterator", "MapResult"),
    "scheduler": ("WorkStealingScheduler",),
    "stats": ("AgentStats", "PoolStats"),
    "tasks": ("Task",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: spawned agents import this package and need none of them."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(f".{_HOME_OF[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
