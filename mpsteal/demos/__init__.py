"""Five demos of the scheduler that end by checking their own outcome: `mpsteal demo [name]`.

    run(stage) -> Report          starts agents, hands in tasks, shows a live table, collects what came of it
    check(report) -> problems     what is not as it should be, in words; nothing else decides the exit status
    tell(report), checked(report) the outcome for people, and the line that says what was checked

One module per demo, each with these four. Beside them: `stage.py` (a scheduler with a table and agents at a starting
line), `live.py` (the table), `work.py` (what tasks run), `command.py` (the command line). Light to import: spawned
agents do.
"""

from __future__ import annotations

from collections.abc import Sequence

DEMOS = {
    "stealing": "five agents, uneven tasks: who is done early takes from who is not",
    "hot_spot": "20 tasks wait at one agent, four more agents come: the queue spreads out",
    "cascading_failure": "agents are killed one after the other while tasks flow: no task is lost or counted twice",
    "priorities": "protected tasks come last and start first, and nobody steals them",
    "metrics": "skills, priorities, dependencies, deadlines, failures at once: the full metrics, and that they add up",
}
"""Name -> what it shows, in the order in which all are run."""


def main(name: str | None = None, argv: Sequence[str] | None = None) -> int:
    """Run a demo, or `mpsteal demo` with its own choice of them.

    Args:
        name: the demo; None: `argv` may name one, and all run if it does not.
        argv: the arguments; default: those of this process.

    Returns:
        The exit status: 0 when every outcome was as it should be, else 1.
    """
    from .command import main as run_command

    return run_command(name, argv)
