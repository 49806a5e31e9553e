"""`docs/reference/scheduler-metrics.md` has every key of `get_metrics()`, and none that is not there."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mpsteal import Agent, Task, WorkStealingMetrics, WorkStealingScheduler
from mpsteal.metrics import AgentSample

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "scheduler-metrics.md"
ALARM_S = 60.0
"""A deadlock alarm, not a measure of speed."""


def documented() -> tuple[set[str], set[str]]:
    """Names in the first column of the tables: keys of `get_metrics()`; attributes of the object behind it."""
    keys, _, attributes = PAGE.read_text().partition("## The object behind it")

    def names(text: str) -> set[str]:
        return {name for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for name in re.findall("`(.+?)`", row)}

    return names(keys), names(attributes)


def keys_of(value: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, inner in value.items():
        if isinstance(inner, dict):
            yield from keys_of(inner, f"{prefix}{key}.")
        else:
            yield prefix + key


def test_every_key_is_documented() -> None:
    with WorkStealingScheduler() as scheduler:
        scheduler.register_agent(Agent("<id>", ["python"]))
        assert scheduler.submit_task(Task("marker", ["python"])).result(timeout=ALARM_S) is None
        metrics = scheduler.get_metrics()
    assert set(keys_of(metrics)) == documented()[0]
    assert json.loads(json.dumps(metrics)) == metrics


def test_every_attribute_is_documented() -> None:
    assert {field.name for field in dataclasses.fields(WorkStealingMetrics)} == documented()[1]
    text = PAGE.read_text()
    assert all(f"`{field.name}`" in text for field in dataclasses.fields(AgentSample))
