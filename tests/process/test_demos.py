"""The demos: each ends well through the command line, and each sees when its outcome is wrong."""

from __future__ import annotations

import copy
import io
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from waiting import program, wait_until

from mpsteal.demos import DEMOS, cascading_failure, command, hot_spot, main, metrics, priorities, stage, stealing
from mpsteal.demos.live import LiveTable, Screen
from mpsteal.demos.stage import Options, StuckError

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ALARM_S = 100


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=ALARM_S,
        check=False,
    )


# -- through the command line ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DEMOS)
def test_demo_ends_well_and_says_what_it_checked(name: str) -> None:
    done = run("-m", "mpsteal", "demo", name, "--quick")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(f"^checked {name}: .*[0-9]", done.stdout, re.M)
    assert re.search(r"^ +[0-9.]+ s  [0-9]+ of [0-9]+ tasks over; agent_1 \w+ queue [0-9]+ done", done.stdout, re.M)
    assert "FAILED" not in done.stdout and "\x1b" not in done.stdout and not done.stderr


def test_example_runs_alone_under_spawn() -> None:
    done = run(str(EXAMPLES / "demo_hot_spot.py"), "--quick", "--start-method", "spawn")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "checked hot_spot: 20 tasks" in done.stdout


def test_every_demo_has_a_module_and_an_example() -> None:
    assert {path.stem for path in EXAMPLES.glob("demo_*.py")} == {f"demo_{name}" for name in DEMOS}
    for name in DEMOS:
        demo = import_module(f"mpsteal.demos.{name}")
        assert all(callable(getattr(demo, part)) for part in ("run", "check", "tell", "checked"))
        assert f'main("{name}")' in (EXAMPLES / f"demo_{name}.py").read_text()


def test_without_a_name_all_are_listed_and_run(monkeypatch: Any, capsys: Any) -> None:
    ran: list[tuple[str, Options]] = []

    def run_demo(name: str, screen: Screen, options: Options) -> bool:
        ran.append((name, options))
        return name != "metrics"

    monkeypatch.setattr(command, "run_demo", run_demo)
    assert main(argv=["--quick"]) == 1
    assert ran == [(name, Options(quick=True)) for name in DEMOS]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[: len(DEMOS)]] == list(DEMOS)
    assert lines[-1] == "4 of 5 demos ended as they should; not: metrics"


def test_unknown_name_is_refused() -> None:
    done = run("-m", "mpsteal", "demo", "nonsense")
    assert done.returncode == 2
    assert "nonsense" in done.stderr


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    source = "from mpsteal.demos import main\nif __name__ == '__main__': raise SystemExit(main('cascading_failure'))\n"
    with program(tmp_path, source) as demo:
        wait_until(lambda: "killed agent_" in demo.output, "the demo in full swing")
        assert len(demo.meet_family()) > 2
        demo.interrupt()
        assert demo.wait() == -signal.SIGINT
        assert demo.errors == "interrupted; all agents are gone\n"
        demo.check_nothing_left()


# -- outcomes that are wrong ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def good() -> Callable[[str], Any]:
    """The report of a demo that ended well; run once."""
    made: dict[str, Any] = {}

    def report_of(name: str) -> Any:
        if name not in made:
            demo = import_module(f"mpsteal.demos.{name}")
            made[name] = demo.run(Screen(io.StringIO()), Options(quick=True))
            assert demo.check(made[name]) == []
        return copy.deepcopy(made[name])

    return report_of


def metrics_with(report: Any, *path: Any) -> Any:
    """The report with one number of its metrics raised by 1."""
    found = report.metrics if hasattr(report, "metrics") else report.final
    for key in path[:-1]:
        found = found[key]
    found[path[-1]] += 1
    return report


def without_result(report: stealing.Report) -> stealing.Report:
    return replace(report, results=dict(list(report.results.items())[1:]))


def with_wrong_result(report: stealing.Report) -> stealing.Report:
    return replace(report, results={name: found + (name == "primes_3") for name, found in report.results.items()})


def nothing_stolen(report: stealing.Report) -> stealing.Report:
    return replace(report, ran_on=report.dealt_to)


def ran_twice(report: Any) -> Any:
    report.starts[7].append(report.starts[7][0])
    report.ends[7].append(report.ends[7][0])
    return report


def never_ran(report: Any) -> Any:
    del report.starts[7], report.ends[7]
    return report


def all_on_one(report: hot_spot.Report) -> hot_spot.Report:
    return replace(report, ran_on=dict.fromkeys(report.ran_on, "agent_1"))


def answered_twice(report: cascading_failure.Report) -> cascading_failure.Report:
    report.outcomes[3] = report.outcomes[3]._replace(answers=2)
    return report


def lost(report: cascading_failure.Report) -> cascading_failure.Report:
    report.outcomes[3] = report.outcomes[3]._replace(answers=0, pid=None, error=None)
    return report


def failed_otherwise(report: cascading_failure.Report) -> cascading_failure.Report:
    report.outcomes[4] = report.outcomes[4]._replace(pid=None, error=ValueError("spoiled"))
    return report


def killed_fewer(report: cascading_failure.Report) -> cascading_failure.Report:
    return replace(report, planned=report.planned + 1)


def change_task(report: priorities.Report, *, protected: bool, **changes: Any) -> priorities.Report:
    """With the first task of a kind changed."""
    wanted = (report.protected() if protected else report.lower())[0]
    return priorities.Report([t._replace(**changes) if t is wanted else t for t in report.tasks], report.metrics)


def protected_stolen(report: priorities.Report) -> priorities.Report:
    return change_task(report, protected=True, queued_on="agent_9")


def lower_started_first(report: priorities.Report) -> priorities.Report:
    return change_task(report, protected=False, started_at=0.0)


def four_before_five(report: priorities.Report) -> priorities.Report:
    first = min(report.protected(), key=lambda task: task.assigned_at)
    return priorities.Report([t._replace(priority=4) if t is first else t for t in report.tasks], report.metrics)


def lower_between(report: priorities.Report) -> priorities.Report:
    return priorities.Report(
        [report.lower()[0]._replace(ran_on=report.tasks[0].ran_on), *report.tasks[:-1]], report.metrics
    )


def nothing_moved(report: priorities.Report) -> priorities.Report:
    return priorities.Report([task._replace(queued_on=task.ran_on) for task in report.tasks], report.metrics)


def one_failed_more(report: metrics.Report) -> metrics.Report:
    return replace(report, outcomes=report.outcomes - Counter(succeeded=1) + Counter(ValueError=1))


def still_queued(report: metrics.Report) -> metrics.Report:
    return replace(report, lengths={**report.lengths, "agent_2": 1})


def queued_differs(report: metrics.Report) -> metrics.Report:
    report.held["per_agent"]["agent_1"]["queue_length"] += 1
    return report


def wrong_sums(report: metrics.Report) -> metrics.Report:
    return replace(report, sums=report.sums[::-1])


def not_for_json(report: metrics.Report) -> metrics.Report:
    report.final["uptime_s"] = float("nan")
    return report


@pytest.mark.parametrize(
    ("name", "spoil", "complaint"),
    [
        ("stealing", without_result, "without a result: primes_0"),
        ("stealing", with_wrong_result, "primes_3: "),
        ("stealing", nothing_stolen, "0 tasks ran elsewhere than dealt"),
        ("stealing", lambda r: metrics_with(r, "steals", "tasks"), "stolen in all"),
        ("stealing", lambda r: metrics_with(r, "per_agent", "agent_2", "done"), "agent_2 counted"),
        ("hot_spot", ran_twice, "task 7 started 2 times and ended 2 times"),
        ("hot_spot", never_ran, "task 7 started 0 times"),
        ("hot_spot", all_on_one, "agent_1 ran 20 tasks, not 1 to 10"),
        ("hot_spot", lambda r: replace(r, queued_before=3), "3 tasks waited at the first agent"),
        ("cascading_failure", answered_twice, "task 3: answered 2 times"),
        ("cascading_failure", lost, "task 3: its result is from process None"),
        ("cascading_failure", failed_otherwise, "task 4: it failed: ValueError('spoiled')"),
        ("cascading_failure", ran_twice, "task 7: "),
        ("cascading_failure", never_ran, "task 7: "),
        ("cascading_failure", killed_fewer, "agents were killed, not 3"),
        ("cascading_failure", lambda r: metrics_with(r, "tasks", "failed"), "the metrics say"),
        ("cascading_failure", lambda r: metrics_with(r, "agent_deaths"), "tasks died"),
        ("priorities", protected_stolen, "was given to agent_9 and ran on"),
        ("priorities", lower_started_first, "was given to an agent"),
        ("priorities", four_before_five, "given out in the order"),
        ("priorities", lower_between, "started a lower task before a protected one"),
        ("priorities", nothing_moved, "nothing was shown"),
        ("metrics", one_failed_more, "failed, and "),
        ("metrics", still_queued, "something is left at the end"),
        ("metrics", queued_differs, "held: "),
        ("metrics", wrong_sums, "the pipelines gave"),
        ("metrics", not_for_json, "do not survive JSON"),
        ("metrics", lambda r: metrics_with(r, "steals", "attempted"), "steals do not add up"),
        ("metrics", lambda r: metrics_with(r, "run", "count"), "runs of"),
        ("metrics", lambda r: metrics_with(r, "deadlines", "missed"), "that were late"),
        ("metrics", lambda r: metrics_with(r, "per_agent", "agent_1", "busy_s"), "agents were busy for"),
    ],
)
def test_check_finds_what_is_wrong(good: Any, name: str, spoil: Callable[[Any], Any], complaint: str) -> None:
    problems = import_module(f"mpsteal.demos.{name}").check(spoil(good(name)))
    assert any(complaint in problem for problem in problems), problems


def test_wrong_outcome_is_told_and_ends_with_status_1(good: Any, monkeypatch: Any, capsys: Any) -> None:
    report = ran_twice(good("hot_spot"))
    monkeypatch.setattr(hot_spot, "run", lambda screen, options: report)
    assert main("hot_spot", []) == 1
    out = capsys.readouterr().out
    assert "FAILED hot_spot: task 7 started 2 times and ended 2 times\n" in out
    assert "checked" not in out


def test_what_never_comes_is_told_and_ends_with_status_1(monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(stage, "ALARM_S", 0.0)
    monkeypatch.setattr(stage.Task, "running", lambda task: False)  # they may be there at once
    assert main("stealing", ["--quick"]) == 1
    assert "FAILED stealing: not within 0 s: agents at the starting line\n" in capsys.readouterr().out
    with pytest.raises(StuckError):
        stage.Stage(Options(), None, None, Path()).until(lambda: False, "nothing")  # type: ignore[arg-type]


# -- the table ------------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    """A stream that says it is one."""

    def isatty(self) -> bool:
        return True


class Shown:
    """Stands for a scheduler: two agents, of which the second leaves."""

    def __init__(self) -> None:
        row = {"state": "running", "queue_length": 3, "done": 1, "failed": 0, "steals": 2}
        row |= {"stolen_by_it": 4, "stolen_from_it": 0}
        self.agents = {name: dict(row) for name in ("anna", "bert")}

    def get_metrics(self) -> Any:
        tasks = {"submitted": 9, "unfinished": 7, "running": 2, "queued": 6, "held": 0}
        return {"tasks": tasks, "per_agent": self.agents}


def draw_twice(stream: io.StringIO) -> str:
    shown = Shown()
    table = LiveTable(Screen(stream), shown)  # type: ignore[arg-type]
    table.tick()
    del shown.agents["bert"]
    table.event("bert has left")
    table.tick(now=True)
    return stream.getvalue()


def test_table_is_redrawn_in_place_on_a_terminal(monkeypatch: Any) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((70, 20)))
    first, second = draw_twice(Terminal()).split("\x1b[4A\r")
    rows = re.sub(r"\x1b\[[KJ]", "", second).splitlines()
    assert first.count("\n") == 4  # what the cursor goes up by
    assert rows[0] == "bert has left"
    assert rows[1].startswith("  0.0 s  2 of 9 tasks over, 2 running")
    assert rows[3].split()[:5] == ["anna", "running", "3", "###", "1"]
    assert rows[4].split()[:3] == ["bert", "gone", "0"]
    assert all(len(row) < 70 for row in rows)


@pytest.mark.parametrize(("stream", "term"), [(Terminal, "dumb"), (io.StringIO, "xterm")])
def test_plain_lines_elsewhere(monkeypatch: Any, stream: Callable[[], io.StringIO], term: str) -> None:
    monkeypatch.setenv("TERM", term)
    lines = draw_twice(stream()).splitlines()
    assert lines == [
        "  0.0 s  2 of 9 tasks over; anna running queue 3 done 1 steals 2; bert running queue 3 done 1 steals 2",
        "bert has left",
        "  0.0 s  2 of 9 tasks over; anna running queue 3 done 1 steals 2; bert gone queue 0 done 1 steals 2",
    ]
