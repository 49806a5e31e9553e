"""What goes to the log: every record has the same facts, and the documentation names every event."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mpsteal._engine.events import EVENTS, facts

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reference" / "logging.md"
METHODS = {"debug", "info", "warning", "error", "exception", "critical", "log"}


def is_log_call(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in METHODS
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "logger"
    )


def calls() -> Iterator[Any]:
    """Every call of the logger in the package, with its place as the name of its test."""
    for path in sorted((ROOT / "mpsteal").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if is_log_call(node):
                assert isinstance(node, ast.Call)
                yield pytest.param(node, id=f"{path.relative_to(ROOT)}:{node.lineno}")


@pytest.mark.parametrize("call", list(calls()))
def test_every_message_has_its_facts(call: ast.Call) -> None:
    extra = {keyword.arg: keyword.value for keyword in call.keywords}.get("extra")
    assert isinstance(extra, ast.Call), "extra=facts(...) is missing"
    assert isinstance(extra.func, ast.Name)
    assert extra.func.id == "facts"
    event = extra.args[0]
    if isinstance(event, ast.Constant):
        assert event.value in EVENTS


def test_every_event_is_told_somewhere() -> None:
    text = "".join(path.read_text() for path in (ROOT / "mpsteal").rglob("*.py") if path.name != "events.py")
    computed = {"agent_stuck", "agent_stopped"}  # from the verdict
    assert {event for event in EVENTS if f'"{event}"' not in text} == computed


def test_documentation_has_every_event_and_fact() -> None:
    text = PAGE.read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", text, re.MULTILINE))
    assert {name: meaning for name, meaning in rows.items() if name in EVENTS} == EVENTS
    assert set(rows) - set(EVENTS) == set(facts("agent_died"))


def test_unknown_event_is_a_bug() -> None:
    with pytest.raises(AssertionError):
        facts("agent_dyed")
