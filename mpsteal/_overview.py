"""What `get_metrics()` gives: counters, samples and shared memory put together, as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ._engine.records import AgentLook, AgentRecord
from .agents import Agent
from .config import Config
from .metrics import AgentSample, WorkStealingMetrics


def overview(
    config: Config,
    metrics: WorkStealingMetrics,
    status: Sequence[dict[str, Any]],
    agents: Sequence[tuple[Agent, AgentLook, AgentRecord]],
    *,
    held: int,
) -> dict[str, Any]:
    """Everything that is measured; docs/reference/scheduler-metrics.md has the keys.

    Args:
        status: what shared memory tells of each slot, see `_queue.manager.all_status`.
        agents: those that are there.
        held: tasks that the parent holds back.
    """
    out = metrics.counters()
    rules = config.agents
    lengths = [look.queue_length for _, look, _ in agents]
    per_agent = {
        agent.agent_id: _agent(agent, look, record, status[agent._slot], metrics) for agent, look, record in agents
    }
    out["strategy"] = config.strategy
    out["tasks"]["queued"] = sum(lengths)
    out["tasks"]["running"] = sum(look.current_task is not None for _, look, _ in agents)
    out["tasks"]["held"] = held
    successful, failed = sum(row["steals"] for row in status), sum(row["steals_failed"] for row in status)
    out["steals"] = {
        "attempted": successful + failed,
        "successful": successful,
        "failed": failed,
        "tasks": sum(row["chunks_stolen"] for row in status),
        "repairs": sum(row["repairs"] for row in status),
    }
    out["agents"] = {
        "registered": len(agents),
        "busy": sum(length > rules.busy_above for length in lengths),
        "idle": sum(length < rules.idle_below for length in lengths),
    }
    utilization = [row["utilization"] for row in per_agent.values()]
    out["utilization"] = sum(utilization) / len(utilization) if utilization else 0.0
    out["sampled_at"] = metrics.sampled_at
    out["per_agent"] = per_agent
    return out


def _agent(
    agent: Agent, look: AgentLook, record: AgentRecord, row: dict[str, Any], metrics: WorkStealingMetrics
) -> dict[str, Any]:
    sample, earlier = metrics.samples.get(agent.agent_id) or AgentSample(), record.earlier
    return {
        "pid": look.pid,
        "state": look.state,
        "health": row["health"],
        "capabilities": sorted(agent.capabilities),
        "queue_length": look.queue_length,
        "queue_depth": sample.queue_depth,
        "current_task": None if look.current_task is None else look.current_task.id,
        "done": record.succeeded,
        "failed": record.failed,
        "success_rate": look.success_rate,
        "mean_run_s": record.mean_ns / 1e9,
        "steals": row["steals"] - earlier["steals"],
        "steals_failed": row["steals_failed"] - earlier["steals_failed"],
        "stolen_by_it": row["chunks_stolen"] - earlier["chunks_stolen"],
        "stolen_from_it": row["chunks_lost"] - earlier["chunks_lost"],
        "busy_s": look.busy_ns / 1e9,
        "utilization": sample.utilization,
        "cpu_percent": sample.cpu_percent,
        "rss_bytes": sample.rss_bytes,
    }
