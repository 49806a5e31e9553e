"""`mpsteal advise`, run as a command: what it measures, says and checks, and how it ends."""

from __future__ import annotations

import json
import multiprocessing
import queue
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from waiting import program, wait_until

from mpsteal._advise import POOL_WAYS, SERIAL, command
from mpsteal._advise.calibrate import Setup
from mpsteal._advise.trial import run_trial

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ALARM_S = 100

SCRIPT = """
import os, time

def tiny(x):
    return x + 1

def pair(a, b):
    return a * b

def loud(x):
    print("not for the reader")
    return x

def wait(x):
    time.sleep(0.002)
    return x

def where(x):
    return os.getpid()

def fail(x):
    if x == 3:
        raise LookupError("three is no number")
    return x

def leave(x):
    raise SystemExit(4)

def fail_in_agents(x):
    if os.getpid() != HERE:
        raise LookupError("not at home")
    return x

HERE = os.getpid()
lock = __import__("threading").Lock()
nameless = lambda x: x
sizes = [10] * 40

if __name__ == "__main__":
    raise SystemExit("the guard does not hold")
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "my-script.py"
    path.write_text(SCRIPT)
    return path


def advise(*words: str, cwd: Path, limit_s: float = 1) -> subprocess.CompletedProcess[str]:
    """Run the command. The limit is short, so the figures are coarse, and none of them is looked at."""
    return subprocess.run(
        [sys.executable, "-m", "mpsteal", "advise", *words, "--time-limit", str(limit_s)],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=ALARM_S,
        check=False,
    )


def report(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_answer_prediction_and_check_as_json(script: Path, start_method: str) -> None:
    words = ["--inputs", "range(200)", "--agents", "2", "--json", "--start-method", start_method]
    found = report(advise("my-script.py:tiny", *words, cwd=script.parent, limit_s=20))
    assert set(found) == {
        *("function", "answer", "items", "agents", "cpus", "start_method"),
        *("call", "machine", "predictions", "tips", "check"),
    }
    assert (found["items"], found["agents"], found["start_method"]) == (200, 2, start_method)
    assert found["answer"]["verdict"] == "no pool"
    assert list(found["predictions"]) == [SERIAL, *POOL_WAYS]
    for made in found["predictions"].values():
        assert 0 < made["low_s"] <= made["seconds"] <= made["high_s"]
    assert found["call"]["measured"] == 200 and found["call"]["is_repeatable"]
    assert set(found["machine"]["ways"]) == set(POOL_WAYS)
    assert found["check"]["results_equal"] is True and found["check"]["items"] == 200
    for name, way in found["check"]["ways"].items():
        assert len(way["runs_s"]) >= 3 and min(way["runs_s"]) > 0
        assert way["error_percent"] == pytest.approx(100 * (way["predicted_s"] / way["measured_s"] - 1))
        assert way["predicted_s"] == found["predictions"][name]["seconds"]


def test_words_for_people(script: Path) -> None:
    done = advise("my-script.py:tiny", "--inputs", "sizes", cwd=script.parent)
    assert done.returncode == 0 and not done.stderr, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("Do not use a pool: ")
    assert "\x1b" not in done.stdout and "\r" not in done.stdout
    assert re.search(r"^40 items +predicted +90 % range +speed-up$", done.stdout, re.M)
    assert re.search(r"^mpsteal.Pool: map +[0-9.]+ .s +.* \.\. .* [0-9.]+x$", done.stdout, re.M)
    assert "checked with 40 inputs, " in done.stdout and "all results are equal" in done.stdout
    assert lines[-1].startswith("mpsteal.Pool: map") and lines[-1].endswith("%")
    assert "-> calls are short" in done.stdout


def test_no_check_runs_no_job_and_predicts_for_more_items(script: Path) -> None:
    words = ["--inputs", "range(50)", "--items", "5000000", "--no-check", "--json", "--agents", "2"]
    found = report(advise("my-script.py:tiny", *words, cwd=script.parent))
    assert found["check"] is None
    assert found["items"] == 5_000_000 and found["call"]["inputs"] == 50


def test_function_that_waits_is_told_to_use_threads(script: Path) -> None:
    done = advise("my-script.py:wait", "--inputs", "range(100)", "--agents", "2", "--no-check", cwd=script.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Use threads or asyncio, not processes: ")
    assert "ThreadPoolExecutor" in done.stdout


def test_what_the_function_prints_is_not_in_the_answer(script: Path) -> None:
    found = report(advise("my-script.py:loud", "--inputs", "range(30)", "--json", "--agents", "2", cwd=script.parent))
    assert found["check"]["results_equal"] is True


def test_function_of_several_arguments(script: Path) -> None:
    words = ["--star", "--inputs", "[(i, 2) for i in range(30)]", "--json", "--agents", "2"]
    found = report(advise("my-script.py:pair", *words, cwd=script.parent))
    assert found["check"]["results_equal"] is True


def test_function_in_a_package_and_inputs_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text("")
    (tmp_path / "pack" / "module.py").write_text("def shout(line):\n    return line.upper()\n")
    (tmp_path / "lines.txt").write_text("one\ntwo\nthree\nfour\nfive\nsix\n")
    words = ["--inputs-file", "lines.txt", "--json", "--agents", "2", "--start-method", "spawn"]
    found = report(advise("pack.module:shout", *words, cwd=tmp_path, limit_s=20))
    assert found["function"] == "pack.module:shout"
    assert found["check"]["results_equal"] is True


def test_results_of_another_process_differ_and_that_is_told(script: Path) -> None:
    done = advise("my-script.py:where", "--inputs", "range(20)", "--agents", "2", cwd=script.parent)
    assert done.returncode == 1
    assert "RESULTS DIFFER from the loop's: stock map, stock imap, mpsteal map" in done.stdout


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["my-script.py:fail", "--inputs", "range(9)"], 1, "failed on input number 3, 3:\nTraceback"),
        (["my-script.py:leave", "--inputs", "range(9)"], 1, "SystemExit: 4"),
        (["my-script.py:fail_in_agents", "--inputs", "range(9)"], 1, "failed in another process:\nmultiprocessing"),
        (["my-script.py:nameless", "--inputs", "range(9)"], 1, "define it with `def` at the top level"),
        (["my-script.py:tiny", "--inputs", "[lock] * 9"], 1, "send a path, a key or plain data"),
        (["my-script.py:tyni", "--inputs", "range(9)"], 2, "did you mean tiny?"),
        (["my-script.py:sizes", "--inputs", "range(9)"], 2, "is no function, but list"),
        (["my-script.py:tiny", "--inputs", "range(3)"], 2, "at least 5 are needed"),
        (["my.script:tiny", "--inputs", "range(9)"], 2, "there is no module 'my.script'"),
    ],
)
def test_what_stands_in_the_way_is_told(script: Path, words: list[str], status: int, text: str) -> None:
    done = advise(*words, "--agents", "2", cwd=script.parent)
    assert done.returncode == status, done.stdout + done.stderr
    assert done.stderr.startswith("mpsteal advise: ") and text in done.stderr
    assert "_advise" not in done.stderr or "RemoteTraceback" in done.stderr


@pytest.mark.parametrize("name", ["greet"])
def test_example_runs(name: str) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "should_i.py"), name, "--time-limit", "1", "--agents", "2"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=ALARM_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"== {name}\n\n") and not done.stderr
    assert "RESULTS DIFFER" not in done.stdout
    assert "all results are equal" in done.stdout or "not checked: one run of each way takes" in done.stdout


def test_reader_that_goes_away_ends_it_quietly(script: Path) -> None:
    words = "advise my-script.py:tiny --inputs 'range(20)' --time-limit 1 --agents 2"
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m mpsteal {words} | true"],
        cwd=script.parent,
        capture_output=True,
        text=True,
        timeout=ALARM_S,
        check=False,
    )
    assert not done.stderr


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    source = f"""
import sys, time
from mpsteal.cli import main

def work(x):
    time.sleep(0.001)
    return x

if __name__ == "__main__":
    sys.exit(main(["advise", {str(tmp_path / "main.py")!r} + ":work", "--inputs", "range(10**5)", "--agents", "2"]))
"""
    (tmp_path / "main.py").write_text(source)
    with program(tmp_path, source) as run:
        wait_until(run.meet_family, "pools are calibrated")
        run.interrupt()
        assert run.wait() == -signal.SIGINT
        run.check_nothing_left()


def slow_in_no_way(x: int) -> int:
    return x * x


def test_trial_runs_every_way_in_turns() -> None:
    setup = Setup(2, multiprocessing.get_context())
    trial = run_trial(slow_in_no_way, list(range(30)), [SERIAL, *POOL_WAYS], setup, 2)
    assert trial.items == 30 and not trial.differ
    assert {way: len(runs) for way, runs in trial.seconds.items()} == dict.fromkeys([SERIAL, *POOL_WAYS], 2)


def sort_it(values: list[int]) -> tuple[int, bool]:
    was_sorted = values == sorted(values)
    values.sort()
    return values[0], was_sorted


def test_loop_works_on_copies_where_arguments_are_changed() -> None:
    inputs = [[3, 2, i] for i in range(12)]
    setup = Setup(2, multiprocessing.get_context())
    trial = run_trial(sort_it, inputs, [SERIAL, *POOL_WAYS], setup, 2, changes_argument=True)
    assert not trial.differ
    assert inputs == [[3, 2, i] for i in range(12)]


def test_what_does_not_end_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    said: queue.Queue[str] = queue.Queue()
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(write=said.put, flush=lambda: None, isatty=lambda: False))
    tell = command._Progress(True)
    tell("calling the function")
    with tell.watched(0.0):
        text = said.get(timeout=ALARM_S)
    assert "still calling the function" in text and "Ctrl-C ends it" in text
