"""Every error keeps its type, its facts and its words on the way through a pickle."""

from __future__ import annotations

import copy
import pickle
import signal
from multiprocessing.pool import MaybeEncodingError
from typing import Any

import pytest

from mpsteal import errors

EXAMPLES: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "MpstealError": (("a word",), {}),
    "AgentDiedError": (
        (3, 4711, -9, "task 5 (f)"),
        {"agent": 3, "pid": 4711, "exitcode": -9, "task": "task 5 (f)"},
    ),
    "AgentStartError": (("a word",), {}),
    "PoolTerminatedError": (("a word",), {}),
    "SharedObjectError": (("a word",), {}),
    "TaskCancelledError": (("a word",), {}),
    "RemoteError": (
        ("m.E", "a word", "Traceback ...", "it would not"),
        {
            "type_name": "m.E",
            "message": "a word",
            "traceback_text": "Traceback ...",
            "reason": "it would not",
        },
    ),
    "ConfigError": (
        ("a.yaml", 3, "stratgy", "an unknown key", "strategy", "strategy"),
        {
            "file": "a.yaml",
            "line": 3,
            "key": "stratgy",
            "found": "an unknown key",
            "allowed": "strategy",
            "nearest": "strategy",
        },
    ),
    "DependencyError": (
        ("b", 2, "a", 1, "ValueError: no"),
        {"task": "b", "task_id": 2, "root": "a", "root_id": 1, "reason": "ValueError: no"},
    ),
    "TaskTimeoutError": (("a", 0.5), {"task": "a", "timeout_s": 0.5}),
    "TransferError": (
        ("arguments", "ValueError", "no"),
        {"what": "arguments", "type_name": "ValueError", "message": "no"},
    ),
    "UnmatchedTaskError": (("a", frozenset({"gpu"})), {"task": "a", "missing": frozenset({"gpu"})}),
    "SegmentFullError": ((28, "a word"), {"errno": 28, "strerror": "a word"}),
}

CLASSES = {
    name: value
    for name, value in vars(errors).items()
    if isinstance(value, type)
    and issubclass(value, BaseException)
    and not issubclass(value, Warning)
    and value.__module__ == errors.__name__
}


def test_every_error_has_an_example() -> None:
    assert set(EXAMPLES) == set(CLASSES)


@pytest.mark.parametrize("name", sorted(CLASSES))
class TestEveryError:
    def test_shares_the_root_and_says_what_it_is(self, name: str) -> None:
        assert issubclass(CLASSES[name], errors.MpstealError)
        assert name.endswith("Error")
        assert CLASSES[name].__doc__

    @pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
    def test_survives_a_pickle(self, name: str, protocol: int) -> None:
        args, facts = EXAMPLES[name]
        error = CLASSES[name](*args)
        for again in (pickle.loads(pickle.dumps(error, protocol)), copy.copy(error)):
            assert type(again) is type(error)
            assert again.args == error.args
            assert str(again) == str(error)
            for fact, value in facts.items():
                assert getattr(again, fact) == value


@pytest.mark.parametrize(
    ("exitcode", "words"),
    [
        (-signal.SIGKILL, "was killed by SIGKILL"),
        (-200, "was killed by signal 200"),
        (3, "exited with code 3"),
        (0, "exited with code 0"),
        (None, "vanished"),
    ],
)
def test_a_death_in_words(exitcode: int | None, words: str) -> None:
    text = str(errors.AgentDiedError(2, 99, exitcode, "task 7 (work)"))
    assert text == f"agent 2 (pid 99) {words} while it ran task 7 (work)"


def test_what_pool_users_catch_today() -> None:
    assert issubclass(errors.RemoteError, MaybeEncodingError)
    assert issubclass(errors.SegmentFullError, OSError)
