"""The report of a growth run: how much a cost rises from 10^4 on, what is said of it, and its drawings."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bench_runs import made_up
from test_bench_html import Outline

from bench import __main__ as bench
from bench import _growth, _growth_html, _html, _suite_table
from bench.workloads import growth

ROOT = Path(__file__).parents[2]
RISE = {"mpsteal": 1.0, "stock": 2.0, "ppe": 1.2}
"""Of the cost, with each power of ten."""


def grown(rounds: int = 2) -> dict[str, Any]:
    """All rows of the table but those of 10^7; the stock pool has no 10^6, and ppe nothing above 10^4. A task of
    mpsteal costs 3 us, of the others 10 us at 10^2 and by `RISE` more with each power; in later rounds twice that."""
    rows = [row for row in growth.ROWS if not row.name.endswith("1e7")]
    data = made_up(0)
    data["settings"] |= {"table": "growth", "rounds": rounds}
    data["rows"] = [_suite_table.about(row) for row in rows]
    data["targets"].append({"name": "ppe", "label": "ProcessPoolExecutor", "version": "3.11.7", "chunk_word": ""})
    for number in range(rounds):
        for row in rows:
            kind, _, size = row.name.partition("-")
            for pool, rise in RISE.items():
                if kind == "agents":
                    figures = {"over_bound": 1.0 + int(size) * (rise - 0.9) / 64, "warm_ms": 5.0}
                elif int(size[2:]) > {"mpsteal": 6, "stock": 5, "ppe": 4}[pool]:
                    continue
                else:
                    cost = (3.0 if pool == "mpsteal" else 10.0) * rise ** (int(size[2:]) - 2)
                    figures = {"us_per_task": cost * (number + 1)}
                data["runs"].append(
                    {"row": row.name, "pool": pool, "round": number, "figures": figures, "facts": {}, "error": ""}
                    | {"others_cores": 0.0, "seconds": 0.1}
                )
    return data


def curves(data: dict[str, Any], kind: str) -> dict[str, _growth.Curve]:
    (found,) = [one for one in _growth.kinds(data) if one.name == kind]
    return {curve.target: curve for curve in found.curves}


def test_kinds_are_those_of_the_table_with_their_sizes() -> None:
    found = _growth.kinds(grown())
    assert [kind.name for kind in found] == ["agents", "submit", "stream", "map"]
    assert [size for size, _ in found[0].curves[0].spreads()] == list(growth.AGENT_COUNTS)
    assert {curve.target: max(curve.rounds) for curve in found[1].curves} == {
        "mpsteal": 10**6,
        "stock": 10**5,
        "ppe": 10**4,
    }


def test_rise_is_taken_within_a_round_from_ten_thousand_on() -> None:
    """The second round costs twice as much everywhere, which is no rise."""
    mine = curves(grown(), "submit")
    size, spread = mine["stock"].rise() or (0, None)
    assert spread is not None
    assert (size, spread.median, spread.low, spread.high) == (10**5, 2.0, 2.0, 2.0)
    size, spread = mine["mpsteal"].rise() or (0, None)
    assert spread is not None
    assert (size, spread.median) == (10**6, 1.0)
    assert mine["ppe"].rise() is None


def test_rise_of_rounds_that_never_meet_is_that_of_the_medians() -> None:
    curve = _growth.Curve("stock", {10**4: {0: 2.0, 1: 4.0}, 10**5: {2: 6.0}})
    size, spread = curve.rise() or (0, None)
    assert spread is not None
    assert (size, spread.samples) == (10**5, (2.0,))
    assert _growth.Curve("stock", {100: {0: 2.0}, 10**5: {0: 6.0}}).rise() is None


def test_sentences_say_the_flattest_first_and_who_has_no_answer() -> None:
    data = grown()
    names = {"mpsteal": "M", "stock": "S", "ppe": "P"}
    agents, submit, *_ = [_growth.sentence(kind, names) for kind in _growth.kinds(data)]
    assert submit == (
        "At the most tasks measured, one costs this many times what it costs at 10⁴: M 1.00 (at 10⁶, 1.00 to 1.00); "
        "S 2.00 (at 10⁵, 2.00 to 2.00). Not measured both at 10⁴ and above: P."
    )
    assert agents == (
        "The makespan over its bound is at worst: M 1.10 (64 agents, 1.10 to 1.10); P 1.30 (64 agents, 1.30 to 1.30); "
        "S 2.10 (64 agents, 2.10 to 2.10)."
    )


@pytest.mark.parametrize(("size", "words"), [(1, "1"), (64, "64"), (100, "100"), (10**3, "10³"), (10**7, "10⁷")])
def test_sizes_are_said_as_powers_where_they_are_long(size: int, words: str) -> None:
    assert _growth.count(size) == words


def test_page_asks_answers_and_limits_before_it_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_growth_html, "plot", lambda *_, alt, **__: f"<svg aria-label='{len(alt)}'></svg>")
    data = grown()
    data["targets"][0]["label"] = "<b>stock"
    for run in data["runs"]:
        if (run["row"], run["pool"]) == ("map-1e3", "mpsteal"):
            run.update(figures={}, error="<i>broke")
    text = _html.page(data)
    words = (
        "<h1>What happens to the cost of a task",
        ">Answer<",
        ">Limits of all this<",
        'id="kind-0"',
        ">All figures<",
    )
    places = [text.index(word) for word in words]
    assert places == sorted(places)
    assert "<strong>mpsteal failed</strong> in map-1e3: &lt;i&gt;broke" in text
    assert "<b>" not in text and "<i>" not in text
    assert text.count('<tr><th scope="row">submit-1e') == 5
    outline = Outline(text)
    assert outline.tags.count("svg") == 4
    assert len(outline.ids) == len(set(outline.ids))
    nothing = _html.page(data | {"runs": []})
    assert "Nothing in this run came to an answer" in nothing
    Outline(nothing)


def test_only_growth_has_a_drawing_for_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run.json"
    for data in (made_up(), grown() | {"runs": []}):
        run.write_text(json.dumps(data))
        assert bench.main(["report", str(run), "--svg", str(tmp_path / "drawn")]) == 2
        assert "--svg is for runs of growth" in capsys.readouterr().err
    assert bench.main(["report", str(run)]) == 2
    assert "nothing to write" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [run]


def test_drawings_are_complete_and_always_the_same(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    run, page = tmp_path / "run.json", tmp_path / "page.html"
    data = grown()
    data["targets"][0]["label"] = "a $label$ & <more>"
    run.write_text(json.dumps(data))
    # In processes of their own: matplotlib keeps the files of its fonts open.
    for folder in ("first", "second"):
        command = [sys.executable, "-m", "bench", "report", str(run), "--html", str(page)]
        command += ["--svg", str(tmp_path / folder)]
        subprocess.run(command, cwd=ROOT, check=True, timeout=100, capture_output=True)
    text, drawing = page.read_text(), (tmp_path / "first" / "growth.svg").read_text()
    assert drawing == (tmp_path / "second" / "growth.svg").read_text()
    for whole in (text, drawing):
        outline = Outline(whole)
        assert outline.loads == []
        assert len(outline.ids) == len(set(outline.ids))
        assert "a $label$ &amp; &lt;more&gt;</text>" in whole
        assert "#010203" not in whole
        for words in ("tasks, log scale</text>", "items, log scale</text>", "agents, log scale</text>", ">10⁶</text>"):
            assert words in whole
    assert Outline(text).tags.count("svg") == 4
    assert drawing.startswith(
        '<svg role="img" aria-label="agents: The makespan over its bound is at worst: mpsteal.Pool'
    )
    assert "currentColor" not in drawing
    assert "<dc:date>" not in drawing
