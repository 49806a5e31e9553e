"""`Agent`, as a scheduler or an executor takes it: a worker process with capabilities, seen from the parent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from .tasks import Task, skill_set

if TYPE_CHECKING:
    from .executor import Executor
    from .scheduler import WorkStealingScheduler


class Agent:
    """A worker process with capabilities, once it is registered with a scheduler, or given to an `Executor`.

    Args:
        agent_id: its name, unique in its scheduler.
        capabilities: the skills that it has (words); "*" (`matching.wildcard`) stands for any.
    """

    def __init__(self, agent_id: str, capabilities: Iterable[str] = ()) -> None:
        if type(agent_id) is not str or not agent_id:
            raise TypeError(f"agent_id must be a word, not {agent_id!r}")
        self.agent_id = agent_id
        self.capabilities = skill_set("capabilities", capabilities or ())
        self._scheduler: WorkStealingScheduler | Executor | None = None
        self._slot = self._registration = -1

    def _claim(self) -> None:
        """Raise ValueError if it is being registered, or was, by whatever thread, with whatever scheduler."""
        mine = object()
        if self.__dict__.setdefault("_claimed", mine) is not mine:  # one step: of several threads one succeeds
            raise ValueError(f"{self!r} is registered already, or was; make a new one")

    def _unclaim(self) -> None:
        """It was not registered after all."""
        self.__dict__.pop("_claimed", None)

    def _row(self) -> Any:
        scheduler = self._scheduler
        return None if scheduler is None else scheduler._look(self)

    @property
    def queue_length(self) -> int:
        """Tasks assigned to it that it has not started."""
        row = self._row()
        return 0 if row is None else row.queue_length

    @property
    def is_busy(self) -> bool:
        """Whether more tasks than `agents.busy_above` are queued."""
        scheduler = self._scheduler
        return scheduler is not None and self.queue_length > scheduler.config.agents.busy_above

    @property
    def is_idle(self) -> bool:
        """Whether fewer tasks than `agents.idle_below` are queued."""
        scheduler = self._scheduler
        return scheduler is None or self.queue_length < scheduler.config.agents.idle_below

    @property
    def success_rate(self) -> float:
        """Share of its tasks that ended well (0 to 1); 1 before the first."""
        row = self._row()
        return 1.0 if row is None else row.success_rate

    @property
    def pid(self) -> int | None:
        """Its process now; None when it has none."""
        row = self._row()
        return None if row is None else row.pid

    @property
    def state(self) -> str:
        """ "new", "starting", "idle", "running", "leaving" or "gone"."""
        row = self._row()
        if row is None:
            return "new" if self._scheduler is None else "gone"
        return row.state  # type: ignore[no-any-return]

    @property
    def current_task(self) -> Task[Any] | None:
        """What it is running right now."""
        row = self._row()
        return None if row is None else row.current_task

    def __repr__(self) -> str:
        return f"<Agent {self.agent_id!r} [{', '.join(sorted(self.capabilities))}] {self.state}>"
