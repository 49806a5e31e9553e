"""`bench/profile.py`: that its parts still fit the package, and how figures become a table. No time is judged."""

from __future__ import annotations

import gc
import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench import profile


def test_agent_loop_and_its_pieces_run_over_a_real_segment() -> None:
    """It checks by itself that every chunk pushed was taken, and every result read back."""
    figures = profile.run_agent(True)
    assert {"the whole loop, int", "the whole loop, pickled", "commit a small int"} <= figures.keys()


def test_submit_alone_leaves_the_collector_on() -> None:
    assert profile.run_submit(True)["apply_async alone"] > 0
    assert gc.isenabled()


def test_every_stage_of_the_engine_is_entered() -> None:
    found: Counter[str] = Counter()
    with profile.stages(found):
        figures = profile.run_load("pickled", True)
    assert figures["caller: submit"] > 0
    for stage in (
        "pickle, or put into the slot",
        "write slots and payloads",
        "read, unpickle, resolve",
        "rest of a turn",
    ):
        assert found[f"#engine: {stage}"], stage


def test_stages_leave_the_package_as_it_was() -> None:
    from mpsteal._engine.dispatch import Dispatcher

    before = Dispatcher._place
    with profile.stages(Counter()):
        assert Dispatcher._place is not before
    assert Dispatcher._place is before


def test_parts_of_a_makespan_are_all_of_it() -> None:
    parts = profile.run_skew("first", True)
    makespan = parts.pop("makespan")
    assert 100 + sum(parts.values()) == pytest.approx(makespan)


def test_rounds_become_medians_and_ratios() -> None:
    samples = {
        "floor": [{"pickle + unpickle + call, int": 2.0}, {"pickle + unpickle + call, int": 4.0}],
        "load-int": [{"wall": 6.0, "parent, all threads": 4.0, "agents": 5.0}] * 2,
    }
    lines = profile.report(samples)
    assert "      3.000  (2.000 .. 4.000)  pickle + unpickle + call, int" in lines
    assert lines[-1].endswith("the floor is 3.00 and, on 2 cores, 1.50: 3.0 and 4.0 times")


def test_samples_are_shares_of_their_thread() -> None:
    rounds = [{"samples": {"engine|f|a.py:1": 3, "engine|g|a.py:2": 1, "caller|h|b.py:3": 2}}] * 2
    assert profile.merged("where-int", rounds) == {
        "caller|h|b.py:3": 100.0,
        "caller|samples": 4,
        "engine|f|a.py:1": 75.0,
        "engine|g|a.py:2": 25.0,
        "engine|samples": 8,
    }
