"""What `mpsteal doctor` makes of facts, and that it takes the facts right; the self-test itself is in tests/process."""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import mpsteal
from mpsteal._doctor import OK, PROBLEM, WARNING, Finding, command, facts, judge, selftest

MIB = 1 << 20
NO_LIMIT = None

PYTHON = facts.Python("CPython", (3, 12, 1), False, "Linux", "x86_64")
PACKAGES = facts.Packages({"PyYAML": "6.0", "psutil": "5.9"}, {"cloudpickle": None}, {"cloudpickle": "cloudpickle"})
MEMORY = facts.Memory(8192 * MIB, None, 0, 4)
SHARED = facts.SharedMemory("", 64 * MIB, 4096 * MIB, 8 * MIB)
FILES = facts.Limit(1024, 4096, 10, 4)
TEMPORARY = facts.Temporary("", "/tmp", False, 40, 107)
BLAS = facts.Blas(True, {}, 4)


def case(judged: Callable[..., Finding], seen: Any, verdict: str, *words: str, name: str) -> Any:
    return pytest.param(judged, seen, verdict, words, id=name)


@pytest.mark.parametrize(
    ("judged", "seen", "verdict", "words"),
    [
        case(judge.judge_python, PYTHON, OK, "CPython 3.12.1", name="python"),
        case(judge.judge_python, PYTHON._replace(system="Windows"), PROBLEM, "Linux and macOS", name="windows"),
        case(judge.judge_python, PYTHON._replace(version=(3, 9, 0)), PROBLEM, "3.10", name="an old python"),
        case(judge.judge_python, PYTHON._replace(version=(3, 99, 0)), WARNING, "not tested", name="a future python"),
        case(judge.judge_python, PYTHON._replace(implementation="PyPy"), WARNING, "CPython only", name="pypy"),
        case(
            judge.judge_python, PYTHON._replace(is_free_threaded=True), WARNING, "free-threaded", name="free-threaded"
        ),
        case(judge.judge_packages, PACKAGES, OK, "psutil 5.9", "extra 'cloudpickle'", name="packages"),
        case(
            judge.judge_packages,
            PACKAGES._replace(needed={"PyYAML": None, "psutil": "5.9"}),
            PROBLEM,
            "PyYAML missing",
            "pip install PyYAML",
            name="a dependency missing",
        ),
        case(
            judge.judge_start_methods, facts.StartMethods(["spawn", "fork"]), OK, "spawn is the default", name="methods"
        ),
        case(judge.judge_cpus, facts.Cpus(8, 8, 8), OK, "starts 8 agents", name="cpus"),
        case(judge.judge_cpus, facts.Cpus(64, 8, 2), OK, "affinity leaves 8", "quota 2", name="cpus held back"),
        case(judge.judge_cpus, facts.Cpus(64, 64, 1), WARNING, "1 agent:", "no faster", name="one cpu"),
        case(judge.judge_memory, MEMORY, OK, "8,192 MiB available", name="memory"),
        case(judge.judge_memory, MEMORY._replace(available=50 * MIB), PROBLEM, "4 agents", name="no memory"),
        case(
            judge.judge_memory, MEMORY._replace(available=200 * MIB), WARNING, "50 MiB for each", name="short of memory"
        ),
        case(
            judge.judge_memory,
            MEMORY._replace(limit=512 * MIB, used=480 * MIB),
            PROBLEM,
            "the cgroup allows 512 MiB and uses 480 MiB",
            name="cgroup full",
        ),
        case(judge.judge_shared_memory, SHARED, OK, "memfd_create works", "64 MiB free", name="memfd"),
        case(judge.judge_shared_memory, SHARED._replace(memfd="refused"), WARNING, "seccomp", name="memfd refused"),
        case(
            judge.judge_shared_memory,
            SHARED._replace(memfd="refused", shm_free=MIB, temporary_free=None),
            PROBLEM,
            "a pool needs 8 MiB",
            name="no memfd and no room",
        ),
        case(judge.judge_shared_memory, SHARED._replace(memfd="Darwin has none"), OK, "Darwin", name="macOS"),
        case(judge.judge_open_files, FILES, OK, "1024 may be open", name="files"),
        case(judge.judge_open_files, FILES._replace(soft=NO_LIMIT), OK, "unlimited", name="files without limit"),
        case(judge.judge_open_files, FILES._replace(soft=90), WARNING, "ulimit -n 1024", name="few files"),
        case(
            judge.judge_open_files, FILES._replace(soft=50), PROBLEM, "such a pool cannot start", name="one file short"
        ),
        case(judge.judge_open_files, FILES._replace(soft=51), WARNING, "little is left", name="just enough files"),
        case(judge.judge_open_files, FILES._replace(soft=20, hard=20), PROBLEM, "hard limit (20)", name="files, hard"),
        case(judge.judge_processes, facts.Limit(None, None, 0, 4), OK, "unlimited", name="processes"),
        case(judge.judge_processes, facts.Limit(100, 100, 20, 4), OK, "has 20", name="processes, limited"),
        case(judge.judge_processes, facts.Limit(100, 100, 93, 4), PROBLEM, "hard limit (100)", name="no process left"),
        case(judge.judge_processes, facts.Limit(100, 900, 80, 4), WARNING, "ulimit -u 336", name="few processes left"),
        case(judge.judge_address_space, facts.Limit(None, None, 0, 4), OK, "unlimited", name="addresses"),
        case(judge.judge_address_space, facts.Limit(4096 * MIB, None, MIB, 4), OK, "4,096 MiB", name="many addresses"),
        case(
            judge.judge_address_space,
            facts.Limit(200 * MIB, None, MIB, 4),
            WARNING,
            "MemoryError",
            name="few addresses",
        ),
        case(judge.judge_address_space, facts.Limit(60 * MIB, None, MIB, 4), PROBLEM, "no room", name="no addresses"),
        case(judge.judge_cores, facts.Cores(0, "core"), OK, "off", name="cores off"),
        case(judge.judge_cores, facts.Cores(None, "|/usr/bin/catch %p"), OK, "/usr/bin/catch", name="cores caught"),
        case(judge.judge_cores, facts.Cores(None, "core"), WARNING, "any size", "ulimit -c 0", name="cores in files"),
        case(judge.judge_leftovers, [], OK, "none", name="no leftovers"),
        case(judge.judge_leftovers, ["/tmp/mpsteal-1"], WARNING, "rm -r /tmp/mpsteal-1", name="a leftover"),
        case(judge.judge_leftovers, list("abcdef"), WARNING, "rm -r a b c d e f", name="many leftovers"),
        case(judge.judge_blas, BLAS, WARNING, "OMP_NUM_THREADS=1", name="blas unbounded"),
        case(judge.judge_blas, BLAS._replace(variables={"OMP_NUM_THREADS": "2"}), OK, "=2", name="blas bounded"),
        case(judge.judge_blas, BLAS._replace(has_numpy=False), OK, "not installed", name="no numpy"),
        case(judge.judge_blas, BLAS._replace(agents=1), OK, name="blas alone"),
    ],
)
def test_verdict(judged: Callable[..., Finding], seen: Any, verdict: str, words: tuple[str, ...]) -> None:
    finding = judged(seen)
    assert finding.verdict == verdict
    for word in words:
        assert word in f"{finding.seen} -> {finding.advice}"
    assert bool(finding.advice) == (verdict != OK), "what is wrong comes with what to do, and nothing else does"


KERNEL = facts.Kernel("", True, True, "")


@pytest.mark.parametrize(
    ("seen", "verdicts"),
    [
        pytest.param(KERNEL, {"record locks": OK, "membarrier": OK, "pidfd": OK}, id="all there"),
        pytest.param(KERNEL._replace(locks="let in"), {"record locks": PROBLEM}, id="locks that do not lock"),
        pytest.param(KERNEL._replace(has_membarrier=False), {"membarrier": WARNING}, id="membarrier refused"),
        pytest.param(
            KERNEL._replace(has_membarrier=False, wants_membarrier=False),
            {"membarrier": OK},
            id="membarrier not wanted",
        ),
        pytest.param(KERNEL._replace(pidfd="Operation not permitted"), {"pidfd": WARNING}, id="pidfd refused"),
        pytest.param(KERNEL._replace(pidfd="Darwin has none"), {"pidfd": OK}, id="macOS"),
    ],
)
def test_kernel(seen: facts.Kernel, verdicts: dict[str, str]) -> None:
    found = {finding.name: finding.verdict for finding in judge.judge_kernel(seen)}
    assert found == {"record locks": OK, "membarrier": OK, "pidfd": OK, **verdicts}


@pytest.mark.parametrize(
    ("seen", "verdicts"),
    [
        pytest.param(TEMPORARY, [OK, OK], id="as it should be"),
        pytest.param(TEMPORARY._replace(asked="/tmp/"), [OK, OK], id="asked for, and taken"),
        pytest.param(TEMPORARY._replace(asked="/nowhere"), [PROBLEM, OK], id="asked for another"),
        pytest.param(TEMPORARY._replace(used=""), [PROBLEM], id="none at all"),
        pytest.param(TEMPORARY._replace(is_open_to_others=True), [WARNING, OK], id="others may rename"),
        pytest.param(TEMPORARY._replace(socket_path=108), [OK, PROBLEM], id="too long for sockets"),
    ],
)
def test_temporary_directory(seen: facts.Temporary, verdicts: list[str]) -> None:
    assert [finding.verdict for finding in judge.judge_temporary(seen)] == verdicts


# -- facts -----------------------------------------------------------------------------------


def test_every_check_gives_findings_here() -> None:
    found = list(command.look())
    assert len(found) >= len(command.CHECKS)
    assert not [finding for finding in found if "could not be looked at" in finding.seen]


def test_check_that_fails_is_a_problem_and_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Finding:
        raise OSError("no /proc here")

    monkeypatch.setattr(command, "CHECKS", {"first": fail, "second": lambda: Finding("second", OK, "")})
    first, second = command.look()
    assert (first.name, first.verdict) == ("first", PROBLEM) and "no /proc here" in first.seen
    assert second.verdict == OK


def test_tightest_memory_cgroup_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "cgroup_folders", lambda root, controller: [root / "a", root / "b", root / "c"])
    for name, limit, used in (("a", "max", "1"), ("b", "1000", "100"), ("c", "5000", "4900")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "memory.max").write_text(f"{limit}\n")
        (tmp_path / name / "memory.current").write_text(f"{used}\n")
    seen = facts.look_at_memory(str(tmp_path))
    assert (seen.limit, seen.used) == (5000, 4900)


def test_memory_without_a_cgroup_has_no_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "cgroup_folders", lambda root, controller: [root])
    (tmp_path / "memory.limit_in_bytes").write_text(f"{0x7FFFFFFFFFFFF000}\n")  # how v1 says "none"
    (tmp_path / "memory.usage_in_bytes").write_text("1\n")
    assert facts.look_at_memory(str(tmp_path)).limit is None


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """One in which sockets can be made."""
    with tempfile.TemporaryDirectory(prefix="d-") as name:
        yield Path(name)


def test_leftover_is_what_is_old_and_answers_nobody(short_folder: Path) -> None:
    old = time.time() - 10 * facts.SETTLED_S
    for name in ("mpsteal-dead", "mpsteal-killed", "mpsteal-alive", "mpsteal-new", "other"):
        (short_folder / name).mkdir()
    killed, alive = (socket.socket(socket.AF_UNIX) for _ in range(2))
    with killed, alive:
        killed.bind(str(short_folder / "mpsteal-killed" / "manager"))
        killed.close()
        alive.bind(str(short_folder / "mpsteal-alive" / "manager"))
        alive.listen()
        for name in ("mpsteal-dead", "mpsteal-killed", "mpsteal-alive", "other"):
            os.utime(short_folder / name, (old, old))
        found = facts.look_at_leftovers((str(short_folder),))
    assert [Path(path).name for path in found] == ["mpsteal-dead", "mpsteal-killed"]
    assert len(list(short_folder.iterdir())) == 5, "nothing is deleted"


def test_folder_open_to_others_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for mode, is_open in ((0o700, False), (0o777, True), (0o1777, False), (0o770, True)):
        tmp_path.chmod(mode)
        assert facts.look_at_temporary().is_open_to_others is is_open, oct(mode)
    tmp_path.chmod(0o700)


def test_locks_that_let_others_in_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert facts._try_locks() == ""
    monkeypatch.setattr(facts.fcntl, "lockf", lambda *_: None)
    assert facts._try_locks() == "a second process was let in"


# -- words ------------------------------------------------------------------------------------


def test_one_line_per_finding_and_one_for_what_to_do() -> None:
    assert command.in_words(Finding("cpus", OK, "all well")) == "ok       cpus: all well\n"
    text = command.in_words(Finding("disk", PROBLEM, "full\nreally", "empty it"))
    assert text == "problem  disk: full\n         | really\n         -> empty it\n"


def test_last_line_names_what_is_wrong() -> None:
    good, odd, bad = (Finding(kind, kind, "") for kind in (OK, WARNING, PROBLEM))
    assert command.conclusion([good, odd]) == "\nno problems; 1 checks well, look at: warning\n"
    assert command.conclusion([good, odd, bad]) == "\n1 problem: problem\n"


@pytest.mark.parametrize("words", [["--seconds", "0"], ["--seconds", "x"], ["--nonsense"]])
def test_wrong_options_are_usage_errors(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command.main(words)
    assert caught.value.code == 2
    assert words[0] in capsys.readouterr().err


# -- what the storm holds against a pool -----------------------------------------------------


AGENT_DIED = mpsteal.AgentDiedError(0, 1, -9, "task 3")


class Outcome:
    """Stands in for a handle."""

    def __init__(self, outcome: Any) -> None:
        self.outcome = outcome

    def get(self, _: float) -> Any:
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome


def counted(values: list[int], died: list[int]) -> selftest._Count:
    count = selftest._Count()
    for number in values:
        count.has_value(number, number)
    for number in died:
        count.has_error(number, AGENT_DIED)
    count.wait_ended([(number, Outcome(number)) for number in values])
    count.wait_ended([(number, Outcome(AGENT_DIED)) for number in died])
    return count


def test_storm_in_which_all_is_accounted_for() -> None:
    counted([0, 1, 2], [3, 4]).check(5, Counter([0, 1, 2, 3]), 2)


@pytest.mark.parametrize(
    ("count", "number", "ran", "killed", "words"),
    [
        pytest.param(counted([0, 1], []), 2, [0, 1, 1], 1, "1 tasks ran twice: [1]", id="ran twice"),
        pytest.param(counted([0, 1, 1], []), 2, [0, 1], 1, "were told twice: [1]", id="told twice"),
        pytest.param(counted([0], []), 2, [0, 1], 1, "were lost: [1]", id="lost"),
        pytest.param(counted([0, 1], []), 2, [0], 1, "without having run: [1]", id="a value from nowhere"),
        pytest.param(
            counted([0], [1, 2]), 3, [0, 1, 2], 1, "2 tasks died with 1", id="more than one died with an agent"
        ),
        pytest.param(counted([0], []), 1, [0], 0, "no agent could be killed", id="a storm without wind"),
    ],
)
def test_storm_finds(count: selftest._Count, number: int, ran: list[int], killed: int, words: str) -> None:
    with pytest.raises(selftest.BadOutcomeError) as caught:
        count.check(number, Counter(ran), killed)
    assert words in str(caught.value)


def test_wrong_values_and_strange_errors_are_found() -> None:
    count = counted([0], [])
    count.has_value(1, 7)
    count.has_error(2, ValueError("odd"))
    count.wait_ended([(1, Outcome(7)), (2, Outcome(ValueError("odd")))])
    with pytest.raises(selftest.BadOutcomeError, match=r"task 1 gave 7; task 2 raised ValueError: odd"):
        count.check(3, Counter([0, 1, 2]), 1)


def test_task_without_an_outcome_is_a_hang() -> None:
    with pytest.raises(selftest.BadOutcomeError, match="task 5 had no outcome"):
        counted([], []).wait_ended([(5, Outcome(multiprocessing.TimeoutError()))])


def test_callback_that_did_not_come_is_found() -> None:
    count = counted([0], [])
    count.wait_ended([(1, Outcome(1))])
    with pytest.raises(selftest.BadOutcomeError, match=r"1 tasks had no callback: \[1\]"):
        count.check(2, Counter([0, 1]), 1)


def test_process_and_folder_that_stay_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "SETTLE_S", 0.0)
    stays = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    guard = SimpleNamespace(pid=0, folder=str(tmp_path))
    stats = SimpleNamespace(agents=[SimpleNamespace(pid=stays.pid)])
    pool: Any = SimpleNamespace(
        stats=lambda: stats,
        _engine=SimpleNamespace(guard=guard),
        terminate=lambda: None,
        join=lambda: None,
    )
    try:
        with pytest.raises(selftest.BadOutcomeError) as caught, selftest._leaving_nothing(pool):
            pass
    finally:
        stays.communicate()
    assert f"process {stays.pid}" in str(caught.value)
    assert f"folder {tmp_path}" in str(caught.value)
