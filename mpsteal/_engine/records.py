"""What the parent notes down about agents and tasks, for `Scheduling`: plain data. Engine thread writes, any reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple


@dataclass
class AgentRecord:
    """One registration: slots and ids are used again.

    Attributes:
        name, capabilities: the agent's; those of an executor made by number have that for a name.
        registration: a number that no other has.
        earlier: what agents that held the slot before have done there, as in `agent_status`.
        succeeded, failed: its tasks.
        mean_ns: moving mean of their run time; 0.0 before the first.
    """

    name: str
    capabilities: frozenset[str]
    registration: int
    earlier: dict[str, Any]
    succeeded: int = 0
    failed: int = 0
    mean_ns: float = 0.0

    @property
    def success_rate(self) -> float:
        """Share of its tasks that ended well (0..1); 1.0 before the first."""
        return self.succeeded / (self.succeeded + self.failed) if self.failed else 1.0


class AgentLook(NamedTuple):
    """One look at an agent."""

    queue_length: int
    pid: int | None
    state: str
    current_task: Any
    success_rate: float
    busy_ns: int


Failure = tuple[str, int, str]
"""How a task failed, for those that come later and depend on it: the root of the failure, that one's id, the reason."""


class Ended:
    """How tasks ended: at least the last `keep` of them, by id.

    Two generations each, the younger becoming the older when it is full: nothing is searched or deleted one by one.
    """

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._well: tuple[set[int], set[int]] = set(), set()
        """Ids of those that succeeded: the younger, the older."""
        self._failures: tuple[dict[int, Failure], dict[int, Failure]] = {}, {}

    def succeeded(self, task_ids: list[int]) -> None:
        """Note some."""
        young = self._well[0]
        young.update(task_ids)
        if len(young) > self._keep:
            self._well = set(), young

    def failed(self, task_id: int, how: Failure) -> None:
        """Note one."""
        young = self._failures[0]
        young[task_id] = how
        if len(young) > self._keep:
            self._failures = {}, young

    def has_succeeded(self, task_id: int) -> bool:
        """False also where it was forgotten, or never was."""
        return any(task_id in ids for ids in self._well)

    def failure_of(self, task_id: int) -> Failure | None:
        """How it failed, if it did and that was not forgotten."""
        found = [failures[task_id] for failures in self._failures if task_id in failures]
        return found[0] if found else None
