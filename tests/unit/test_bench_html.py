"""The report of a stored run: what it says first, that losses are said as gains are, and that it needs nothing else."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from bench_runs import fail, made_up

from bench import __main__ as bench
from bench import _html, _standings, _targets

ROOT = Path(__file__).parents[2]
VOID = {"meta", "br"}


class Outline(HTMLParser):
    """Checks that every tag is closed where it must be, and keeps ids and whatever would be loaded from elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.tags.append(tag)
        for key, value in attrs:
            if key == "id":
                self.ids.append(value or "")
            if key in ("src", "href", "xlink:href", "data") and not (value or "").startswith("#"):
                self.loads.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_html, "plot", lambda *_, alt, **__: f"<svg aria-label='{len(alt)}'></svg>")


def test_doors_of_mpsteal_are_known_with_and_without_a_setting() -> None:
    mine = [name for name in _targets.TARGETS if _targets.is_ours(name)]
    assert mine == ["mpsteal", "mpsteal-executor", "mpsteal-scheduler"]
    assert _targets.is_ours("mpsteal+best")
    assert not any(map(_targets.is_ours, ("stock+best", "mpstealing", "of another time")))


@pytest.mark.usefixtures("no_plots")
def test_question_comes_first_then_the_answer_then_the_limits() -> None:
    text = _html.page(made_up())
    places = [text.index(words) for words in ("Is mpsteal faster", ">Answer<", ">Limits of all this<", 'id="row-0"')]
    assert places == sorted(places)
    outline = Outline(text)
    assert len(outline.ids) == len(set(outline.ids)) == 3


@pytest.mark.usefixtures("no_plots")
def test_losses_stand_beside_gains() -> None:
    text = _html.page(made_up(change={"r1": 20.0}))
    (line,) = re.findall(r"<li>Beside the stock pool .*?</li>", text)
    assert "better in 2 of 3 rows: r0 (10.0 times), r2 (10.0 times)" in line
    assert "<strong>worse</strong> in 1 of 3 rows: r1 (2.00 times)" in line


def test_who_changes_sides_with_the_round_is_neither() -> None:
    data = made_up()
    data["runs"][1]["figures"]["first"] = 1_000.0  # mpsteal, first round of r0
    verdicts = [standing.versus_stock.verdict for standing in _standings.standings(data) if standing.versus_stock]
    assert verdicts == ["even", "better", "better"]


def test_more_is_better_where_the_figure_says_so() -> None:
    (standing,) = _standings.standings(made_up(1, better="higher"))
    assert standing.order == ("stock", "mpsteal")
    assert standing.versus_stock is not None
    assert (standing.versus_stock.verdict, standing.versus_stock.gain) == ("worse", pytest.approx(0.1))


@pytest.mark.usefixtures("no_plots")
def test_failures_are_named_and_all_text_is_escaped() -> None:
    data = fail(made_up(), "r1", "mpsteal", "<script>alert(1)</script>")
    data["machine"]["processor"] = "<b>&"
    data["rows"][0]["title"] = '"><i>'
    data["skipped"] = [{"target": "ray", "why": "<u>"}]
    text = _html.page(data)
    assert "<strong>mpsteal failed</strong> in r1: &lt;script&gt;" in text
    assert "mpsteal has no answer here" in text
    for raw in ("<script", "<b>", "<i>", "<u>"):
        assert raw not in text
    Outline(text)


@pytest.mark.usefixtures("no_plots")
def test_controls_and_quick_runs_are_marked_before_anything_is_told() -> None:
    data = made_up()
    assert 'class="warn"' not in _html.page(data)
    data["settings"] |= {"control": True, "quick": True, "rounds": 1}
    text = _html.page(data)
    for words in ("Control.", "Quick run.", "1 round(s)."):
        assert text.index(f"<strong>{words}</strong>") < text.index(">Answer<")


@pytest.mark.usefixtures("no_plots")
def test_a_run_without_anything_has_a_page_that_says_so() -> None:
    text = _html.page(made_up() | {"runs": []})
    assert "it has no answer" in text
    Outline(text)


def test_without_matplotlib_the_error_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    run, page = tmp_path / "run.json", tmp_path / "page.html"
    run.write_text(json.dumps(made_up()))
    assert bench.main(["report", str(run), "--html", str(page)]) == 2
    assert "pip install 'mpsteal[bench]'" in capsys.readouterr().err
    assert not page.exists()
    run.write_text("[]")
    assert bench.main(["report", str(run), "--html", str(page)]) == 2
    assert "not a run of the suite" in capsys.readouterr().err


def test_drawings_stand_inside_the_page(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    run, page = tmp_path / "run.json", tmp_path / "page.html"
    data = fail(made_up(change={"r0": 0.1}), "r2", "mpsteal")
    data["targets"][1]["label"] = "a $label$ & <more>"
    run.write_text(json.dumps(data))
    # In a process of its own: matplotlib keeps the files of its fonts open.
    command = [sys.executable, "-m", "bench", "report", str(run), "--html", str(page)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=100, capture_output=True)
    text = page.read_text()
    outline = Outline(text)
    assert outline.tags.count("svg") == 3
    assert outline.loads == []
    assert len(outline.ids) == len(set(outline.ids))
    assert text.count(", log scale") == 1  # r0 alone spreads over more than a decade
    assert "no answer</text>" in text
    assert "a $label$ &amp; &lt;more&gt;</text>" in text
    assert "currentColor" in text
    assert "#010203" not in text
