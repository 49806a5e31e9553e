"""`mpsteal doctor`, run as a command: what it says, how it ends, and that it never hangs."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from waiting import is_gone, program, wait_gone, wait_until

from mpsteal._doctor import OK, PROBLEM, Finding, watch
from mpsteal._doctor.watch import run_self_test

ALARM_S = 100

PARTS = ["speed", "storm"]


def doctor(
    *words: str, limit: Callable[[], None] | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mpsteal", "doctor", *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=ALARM_S,
        check=False,
        env=dict(os.environ, **environment),
        preexec_fn=limit,
    )


def findings(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    report = json.loads(done.stdout)
    assert report["ok"] == (done.returncode == 0)
    return {finding["name"]: finding for finding in report["findings"]}


def test_self_test_passes_and_json_says_so() -> None:
    done = doctor("--seconds", "1", "--json")
    found = findings(done)
    assert not done.stderr
    parts = [name for name in found if name in PARTS or name.startswith("start by ")]
    assert len(parts) >= 3
    assert {found[name]["verdict"] for name in parts} == {OK}, done.stdout
    assert "none lost" in found["storm"]["seen"]
    assert done.returncode == any(finding["verdict"] == PROBLEM for finding in found.values())


def test_words_for_people_in_a_pipe() -> None:
    done = doctor("--no-self-test")
    assert not done.stderr
    assert "\x1b" not in done.stdout
    lines = done.stdout.splitlines()
    assert lines[0].startswith("ok       python: ")
    assert not any("storm" in line for line in lines)
    assert "problem" in lines[-1]


def test_few_open_files_are_a_problem_and_no_hang() -> None:
    done = doctor("--seconds", "0.2", "--json", limit=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24)))
    found = findings(done)
    assert done.returncode == 1
    assert found["open files"]["verdict"] == PROBLEM
    assert "24" in found["open files"]["advice"]
    assert PROBLEM in {finding["verdict"] for name, finding in found.items() if name.startswith(("start by", "self"))}


def test_temporary_directory_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    done = doctor("--no-self-test", "--json", TMPDIR=str(tmp_path / "none"))
    found = findings(done)
    assert done.returncode == 1
    assert found["temporary directory"]["verdict"] == PROBLEM
    assert str(tmp_path / "none") in found["temporary directory"]["seen"]


def test_temporary_directory_whose_path_is_too_long_is_a_problem(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    found = findings(doctor("--no-self-test", "--json", TMPDIR=str(long)))
    assert found["socket paths"]["verdict"] == PROBLEM


def test_reader_that_goes_away_ends_it_quietly(tmp_path: Path) -> None:
    command = f"{sys.executable} -m mpsteal doctor --seconds 1 | true"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=ALARM_S, check=False)
    assert not done.stderr


# -- its end -----------------------------------------------------------------------------------

DOCTOR = """
import sys
from mpsteal.cli import main
if __name__ == "__main__":
    sys.exit(main(["doctor", "--seconds", "100"]))
"""


def in_the_storm(run: Any) -> None:
    """Wait until agents are killed and made."""
    wait_until(lambda: "speed: " in run.output, "the storm begins")
    before = {process.pid for process in run.meet_family()}
    wait_until(lambda: {process.pid for process in run.meet_family()} - before, "agents come and go")


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    with program(tmp_path, DOCTOR) as run:
        in_the_storm(run)
        run.interrupt()
        assert run.wait(20) == -signal.SIGINT
        run.check_nothing_left()
        assert run.errors == "interrupted; all agents are gone\n"


def test_killed_doctor_takes_its_patients_along(tmp_path: Path) -> None:
    with program(tmp_path, DOCTOR) as run:
        in_the_storm(run)
        os.kill(run.process.pid, signal.SIGKILL)
        run.wait(20)
        run.check_nothing_left()


# -- a self-test that goes wrong ---------------------------------------------------------------


def reported(code: str, patience_s: float = ALARM_S) -> list[Finding]:
    found: list[Finding] = []
    run_self_test(0.0, found.append, patience_s=patience_s, code=code)
    return found


def test_self_test_that_hangs_is_ended_with_all_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "FAMILY_S", 0.1)
    noted = tmp_path / "pid"
    code = f"""
import subprocess, sys, time
sleeper = subprocess.Popen(["sleep", "600"])  # holds copies of our pipes
print(sleeper.pid, file=open({str(noted)!r}, "w"), flush=True)
print('{{"part": "storm"}}', flush=True)
print("the last words", file=sys.stderr, flush=True)
time.sleep(600)
"""
    (finding,) = reported(code, patience_s=5)
    assert finding.verdict == PROBLEM
    assert "not done after 5 s" in finding.seen
    assert "it was at: storm" in finding.seen
    assert "the last words" in finding.seen
    wait_gone([int(noted.read_text())])


@pytest.mark.parametrize(
    ("end", "words"),
    [("os._exit(3)", "exit code 3"), ("os.kill(os.getpid(), 11)", "signal 11"), ("1 / 0", "ZeroDivisionError")],
)
def test_self_test_that_crashes_is_a_problem(end: str, words: str) -> None:
    first, last = reported(f"""
import faulthandler, os
print('{{"finding": ["speed", "ok", "fast", ""]}}', flush=True)
print('{{"part": "storm"}}', flush=True)
{end}
""")
    assert first == Finding("speed", OK, "fast")
    assert last.verdict == PROBLEM
    assert "it was at: storm" in last.seen
    assert words in last.seen


def test_pipes_held_by_a_stranger_do_not_hold_up_the_end(tmp_path: Path) -> None:
    """A process that outlives the self-test, out of its family, has its pipes: their end never comes."""
    noted = tmp_path / "pid"
    assert (
        reported(f"""
import os, subprocess
middle = subprocess.run(
    ["sh", "-c", "sleep 600 & echo $! > {noted}"],
)
""")
        == []
    )
    orphan = int(noted.read_text())
    assert not is_gone(orphan)
    psutil.Process(orphan).kill()
    wait_gone([orphan])
