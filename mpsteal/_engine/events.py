"""What the engine tells the log: one logger, `mpsteal`, and the same facts at every record, for filters and formatters.

logging.getLogger("mpsteal")       format: %(event)s %(agent)s %(agent_pid)s %(task)s %(exitcode)s
"""

from __future__ import annotations

from typing import Any

EVENTS = {
    "agent_not_joined": "the end of an agent's process could not be waited for, with the traceback",
    "agent_died": "an agent died; the message says whether another is started now, later, or no more",
    "agent_ended": "an agent was ended by us; the message says why: a task's `timeout`, a signal that had stopped it"
    " with a lock that others wait for, what tasks left behind",
    "agent_lost": "an agent died and is not replaced (`agents.replace_dead: false`, or it was to leave)",
    "agent_not_started": "the system refused a process for a further agent of an executor; it is tried again",
    "agent_recycled": "an agent has left by rule (number of tasks, age, memory), and is replaced",
    "agent_stuck": "an agent has for long neither finished anything nor used CPU time",
    "agent_stopped": "an agent was stopped by a signal",
    "agent_goes_on": "one of these goes on",
    "callback_raised": "a user's callback raised, with its traceback",
    "callback_dropped": "there was no thread for a callback, so it was not called",
    "deadline_missed": "a task's deadline has passed",
    "delivery_failed": "a result could not be delivered, with the traceback",
    "engine_failed": "the engine itself failed, with its traceback; every call raises that",
    "exit_with_tasks": "the program ends before a scheduler's tasks are over",
    "finalizer_raised": "a user's finalizer raised, with its traceback; logged in the agent",
    "log_failed": "a record that an agent has logged could not be handled, with the traceback",
    "logs_dropped": "an agent has dropped log records, since they came faster than this program's handlers take them",
    "manager_died": "the Manager's process died; a new one is started",
    "manager_failed": "the Manager's process could not be started; it is tried again",
    "manager_unreachable": "there is no place for the Manager's sockets: it watches, and nobody can attach",
    "max_rss_too_low": "a fresh agent is over `max_rss` after its first task",
    "sample_failed": "no sample of the agents could be taken",
    "spare_died": "the successor of an agent died before its turn",
    "spare_failed": "no successor for an agent could be started; it is replaced when it has left",
    "task_retried": "an agent died of a task that runs again",
    "task_unmatched": "no agent can run a task, so it waits",
}
"""Every `event`, and what it means."""


def facts(
    event: str,
    *,
    agent: int | str | None = None,
    agent_pid: int | None = None,
    task: int | None = None,
    exitcode: int | None = None,
) -> dict[str, Any]:
    """The `extra` of a log record: all of it at each, None where there is nothing to tell.

    Args:
        event: a key of `EVENTS`.
        agent: slot of a Pool's agent, id of a scheduler's.
        agent_pid: its process.
        task: number of the task or chunk it is about.
        exitcode: how the agent ended, as in `multiprocessing.Process.exitcode`.
    """
    assert event in EVENTS, event
    return {"event": event, "agent": agent, "agent_pid": agent_pid, "task": task, "exitcode": exitcode}
