"""`python -m bench` and `mpsteal bench`: a run is kept, goes on where it was stopped, says what it could not measure.
Figures are not looked at: what is measured is the machine's."""

from __future__ import annotations

import glob
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench import _rows, _run, _stored, _suite_table, _targets, suite
from bench._model import Row, Setup
from bench.workloads import dag, growth

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("--quick", "--only", "imap", "--targets", "serial", "stock", "mpsteal", "--cores", "1")


def run_bench(
    *args: str, cwd: Path = ROOT, command: tuple[str, ...] = ("-m", "bench"), path: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command, *args],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=100,
        env=os.environ | {"PYTHONPATH": str(path)},
    )


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A small run, with what it printed."""
    path = tmp_path_factory.mktemp("bench") / "run.json"
    done = run_bench(*SMALL, "--json", str(path))
    assert done.returncode == 0, done.stderr
    return path, done.stdout


def test_run_is_kept_with_machine_versions_and_command(stored: tuple[Path, str]) -> None:
    data = _stored.read(stored[0])
    assert [(run["row"], run["pool"], run["round"]) for run in data["runs"]] == [
        ("imap", "serial", 0),
        ("imap", "stock", 0),
        ("imap", "stock+best", 0),
        ("imap", "mpsteal", 0),
    ]
    assert all(run["figures"]["us_per_item"] > 0 and not run["error"] for run in data["runs"])
    assert data["command"].startswith("mpsteal bench suite --quick --only imap")
    assert {"python", "processor", "cores_usable", "commit"} <= set(data["machine"])
    assert [target["name"] for target in data["targets"]] == ["serial", "stock", "mpsteal"]
    (row,) = data["rows"]
    assert row["question"].endswith("?")
    assert row["not_told"]
    assert row["figures"][0]["key"] == "us_per_item"


def test_table_says_who_and_beside_what(stored: tuple[Path, str]) -> None:
    lines = stored[1].splitlines()
    (best,) = [line for line in lines if "best chunksize" in line]
    assert "multiprocessing.Pool" in best
    assert best.endswith("x stock")
    assert "4 runs" in stored[1]


def test_resumed_run_measures_what_is_missing_only(stored: tuple[Path, str], tmp_path: Path) -> None:
    data = _stored.read(stored[0])
    kept = data["runs"][:2]
    path = tmp_path / "half.json"
    _stored.write(path, data | {"runs": kept})
    done = run_bench(*SMALL, "--json", str(path), "--resume")
    assert done.returncode == 0, done.stderr
    again = _stored.read(path)
    assert again["runs"][:2] == kept
    assert [run["pool"] for run in again["runs"]] == ["serial", "stock", "stock+best", "mpsteal"]
    assert "[1/2," in done.stderr


def test_some_targets_can_be_given_more_rounds(stored: tuple[Path, str], tmp_path: Path) -> None:
    path = tmp_path / "more.json"
    _stored.write(path, _stored.read(stored[0]))
    small = ("--quick", "--only", "imap", "--targets", "serial", "--cores", "1")
    done = run_bench(*small, "--rounds", "2", "--json", str(path), "--resume")
    assert done.returncode == 0, done.stderr
    data = _stored.read(path)
    assert [(run["pool"], run["round"]) for run in data["runs"]] == [
        ("serial", 0),
        ("stock", 0),
        ("stock+best", 0),
        ("mpsteal", 0),
        ("serial", 1),
    ]
    assert data["command"].count("mpsteal bench") == 2
    other = run_bench("--quick", "--only", "submit", "--cores", "1", "--json", str(path), "--resume")
    assert "rows without submit" in other.stderr


def test_resuming_with_other_settings_is_refused(stored: tuple[Path, str]) -> None:
    done = run_bench(*SMALL[:-1], "2", "--json", str(stored[0]), "--resume")
    assert done.returncode == 2
    assert "other settings: cores 1" in done.stderr


def test_resuming_with_another_version_of_a_pool_is_refused(stored: tuple[Path, str], tmp_path: Path) -> None:
    data = _stored.read(stored[0])
    path = tmp_path / "old.json"
    _stored.write(path, data | {"targets": [target | {"version": "0.0"} for target in data["targets"]]})
    done = run_bench(*SMALL, "--json", str(path), "--resume")
    assert done.returncode == 2
    assert "is of serial 0.0" in done.stderr


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--targets", "stok"), "no target called stok"),
        (("--only", "submitt"), "no row called"),
        (("--resume",), "--resume needs --json"),
        (("--rounds", "0"), "at least 1"),
        (("--limit", "-1"), "more than 0"),
        (("--only", "recovery", "--targets", "serial"), "nothing to measure"),
    ],
)
def test_mistakes_are_told(args: tuple[str, ...], words: str) -> None:
    done = run_bench("--quick", *args)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_missing_target_is_skipped_and_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = _targets.Target("absent", "absent", lambda *_: _targets.SerialSession(), frozenset(), "no_such_package")
    monkeypatch.setitem(_targets.TARGETS, "absent", absent)
    here, skipped = suite.choose_targets([], ["serial", "absent"])
    assert here == ["serial"]
    assert skipped == [{"target": "absent", "why": "no_such_package is not installed (pip install 'mpsteal[bench]')"}]
    with pytest.raises(SystemExit, match="no_such_package is not installed"):
        suite.choose_targets(["absent"], [])


def test_folder_with_a_targets_name_is_not_the_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "no_such_package").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    found = _targets.Target("any", "any", lambda *_: _targets.SerialSession(), frozenset(), "no_such_package")
    assert found.missing == "what is called no_such_package here is not installed, but a folder or file on the path"


def test_best_setting_stands_beside_the_default_where_there_is_one() -> None:
    rows = _rows.select(["submit", "imap", "latency"], table="suite", exact=False)
    pairs = [(row.name, name) for row, name in suite.plan(rows, ["serial", "stock", "joblib", "mpsteal"], best=True)]
    assert pairs == [
        ("submit", "serial"),
        ("submit", "stock"),
        ("submit", "mpsteal"),
        ("imap", "serial"),
        ("imap", "stock"),
        ("imap", "stock+best"),
        ("imap", "joblib"),
        ("imap", "joblib+best"),
        ("imap", "mpsteal"),
        ("latency", "serial"),
        ("latency", "stock"),
        ("latency", "mpsteal"),
    ]


def test_targets_that_start_slowly_get_one_row_of_a_family() -> None:
    rows = _rows.select(["spin", "latency"], table="suite")
    slow = [(row.name, name) for row, name in suite.plan(rows, ["ray"], best=False)]
    assert slow == [("spin-1ms", "ray"), ("latency", "ray")]
    named = suite.plan(rows, ["ray"], best=False, named=["spin-20us"])
    assert [row.name for row, _ in named] == ["spin-20us", "spin-1ms", "latency"]


def test_every_quick_row_and_target_exists() -> None:
    names = {row.name for row in _rows.select([], table="suite")}
    assert set(suite.QUICK_ROWS) | suite.STANDS_FOR <= names
    assert set(suite.QUICK_TARGETS) | set(growth.TARGETS) <= set(_targets.TARGETS)


def test_quick_growth_leaves_out_large_sizes_only() -> None:
    names = {row.name for row in suite.choose_rows([], "growth", quick=True)}
    assert {"agents-1", "agents-8", "agents-64", "submit-1e2", "stream-1e4", "map-1e4"} <= names
    assert not {"submit-1e5", "submit-1e6", "stream-1e7", "map-1e7"} & names


@pytest.mark.parametrize("row", [*_rows.SUITE, *growth.ROWS], ids=lambda row: row.name)
def test_every_row_has_a_question_and_limits(row: Row) -> None:
    about = _suite_table.about(row)
    assert about["question"].endswith("?")
    assert len(about["not_told"]) > 10
    assert not row.main or about["figures"][0]["key"] == row.main


def test_sizes_follow_the_share_and_the_target() -> None:
    stock, slow = _targets.TARGETS["stock"], _targets.TARGETS["dask"]
    assert Setup(stock, False, 2).tasks(1000, 100) == 1000
    assert Setup(stock, True, 2).tasks(1000, 100) == 100
    assert Setup(stock, False, 2, share=0.5).tasks(1000, 100) == 500
    assert Setup(slow, False, 2, share=0.5).tasks(100_000, 100) == 50_000 / slow.weight
    assert Setup(slow, False, 2, share=0.5).size(100, 10) == 100
    assert Setup(slow, False, 2, share=0.5).size(100, 10, 40) == 40


def test_chosen_chunks_leave_four_for_each_agent() -> None:
    """A target that gets fewer items, as it is slow for each, may not get all of them in one chunk."""
    chunks = []

    def opener(agents: int, method: str | None, chunk: int | None) -> _targets.Session:
        chunks.append(chunk)
        return _targets.SerialSession()

    setup = Setup(_targets.Target("any", "", opener, frozenset()), quick=False, cores=2, chunk=12_500)
    for items in (100_000, 20_000, 5_000, 3, None):
        setup.open(2, items=items)
    Setup(setup.target, quick=False, cores=2).open(2, items=100)
    assert chunks == [12_500, 2_500, 625, 1, 12_500, None]


def test_graphs_are_whole_in_the_suite_for_stock_and_ours() -> None:
    for name in ("stock", "mpsteal", "mpsteal-executor", "mpsteal-scheduler"):
        assert dag.tasks(Setup(_targets.TARGETS[name], quick=False, cores=2, share=suite.SUITE_SHARE)) == dag.TASKS


def test_end_of_a_run_ends_who_outlives_it() -> None:
    sleeper = "import time; time.sleep(100)"
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {sleeper!r}])"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True) as child:
        assert child.stdout is not None
        assert child.wait(timeout=60) == 0
        _run._end(child)
        assert child.stdout.read() == b""  # the pipe's end, for which the sleeper has to be gone


def test_suite_runs_from_an_installed_package(tmp_path: Path) -> None:
    """As pip leaves it: `bench` inside the package, no checkout around."""
    site = tmp_path / "site"
    shutil.copytree(ROOT / "mpsteal", site / "mpsteal", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "bench", site / "mpsteal" / "_suite" / "bench", ignore=shutil.ignore_patterns("__pycache__"))
    code = "import sys; from mpsteal.cli import main; sys.exit(main())"
    path = tmp_path / "run.json"
    small = ("bench", "--quick", "--only", "imap", "--targets", "serial", "mpsteal", "--json", str(path))
    done = run_bench(*small, cwd=tmp_path, command=("-c", code), path=site)
    assert done.returncode == 0, done.stderr
    data = json.loads(path.read_text())
    assert [(run["pool"], run["error"]) for run in data["runs"]] == [("serial", ""), ("mpsteal", "")]
    assert data["machine"]["commit"] is None
    refused = run_bench("bench", "faults", "--list", cwd=tmp_path, command=("-c", code), path=site)
    assert refused.returncode == 2
    assert "invalid choice" in refused.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signal_ends_the_measurement_too_and_tells_how_to_go_on(number: signal.Signals, tmp_path: Path) -> None:
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip("ignored here, as under nohup")
    path = tmp_path / "run.json"
    words = "bench --quick --only imap --targets serial mpsteal --rounds 500 --json"
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(
            [sys.executable, "-m", *words.split(), str(path)],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"TMPDIR": folder},
        ) as suite_run,
    ):
        assert suite_run.stderr is not None
        assert suite_run.stderr.readline().startswith("[1/")
        while not glob.glob(f"{folder}/*/mpsteal-*"):
            assert suite_run.poll() is None
        below = psutil.Process(suite_run.pid).children(recursive=True)
        suite_run.send_signal(number)
        err = suite_run.stderr.read()
        assert suite_run.wait() == (-number if number == signal.SIGINT else 128 + number)
        assert not psutil.wait_procs(below, timeout=60)[1]
        assert not os.listdir(folder)
    assert f"stopped; go on with: --resume --json {path}" in err
    assert "Traceback" not in err
    assert _stored.read(path)["runs"]


def test_what_cleans_up_after_a_run_has_the_time_to() -> None:
    """As a resource tracker does: it goes on when its parent has ended, and ends by itself."""
    cleaner = "import os, sys; sys.stdin.read(); print('clean', flush=True)"
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {cleaner!r}], stdin=subprocess.PIPE)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True) as child:
        assert child.stdout is not None
        assert child.wait(timeout=60) == 0
        _run._wait_for_group(child.pid, 60)
        _run._end(child)
        assert child.stdout.read() == b"clean\n"


def test_second_ctrl_c_does_not_keep_a_measurement_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(_run.time, "sleep", interrupted)
    code = "import signal, time; signal.signal(signal.SIGUSR1, signal.SIG_IGN); print(flush=True); time.sleep(100)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True) as child:
        assert child.stdout is not None
        child.stdout.readline()
        with pytest.raises(KeyboardInterrupt):
            _run._end(child)
        assert child.returncode == -signal.SIGKILL


@pytest.mark.parametrize("option", ["--json", "--html"])
@pytest.mark.parametrize("place", ["/dev/null", ".", "/dev/null/run.json"])
def test_place_that_cannot_be_written_is_told_before_the_run(option: str, place: str) -> None:
    if option == "--html":
        pytest.importorskip("matplotlib")
    done = run_bench(*SMALL, option, place)
    assert done.returncode == 2
    assert "cannot be written" in done.stderr or "not a file" in done.stderr
    assert "Traceback" not in done.stderr and "[1/" not in done.stderr
    assert not Path("/dev/null").is_file()


def test_stored_run_without_its_parts_is_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(
        json.dumps({"schema": _stored.SCHEMA, "kind": "suite", "settings": {}, "machine": {}, "targets": []})
    )
    with pytest.raises(_stored.UnreadableError, match="without its skipped, rows, runs"):
        _stored.read(path)


def test_row_whose_package_is_missing_is_skipped_and_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = _rows.select(["submit", "large"], table="suite")
    monkeypatch.setattr(suite, "find_spec", lambda name: None)
    here, absent = suite.split_rows(rows)
    assert [row.name for row in here] == ["submit", "large-partial-bytes-imap"]
    assert {"target": "large-share", "why": "numpy is not installed (pip install 'mpsteal[bench]')"} in absent


def test_bench_is_found_where_no_folder_is_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    (row,) = _rows.select(["imap"], exact=True)
    assert not _run.measure_once(row, "serial", 0, quick=True, cores=1).error


def test_progress_tells_the_figure_that_stands_for_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    """Wall times of targets that were given different numbers of items say nothing beside each other."""
    (row,) = _rows.select(["map"], exact=True)
    assert row.main != row.figures[0].key
    progress = _suite_table.Progress([(row, "stock", 0)], [])
    progress.bar = None
    progress.tell(_run.Run("map", "stock", 0, {row.figures[0].key: 77.0, row.main: 0.25}), 1.0)
    assert capsys.readouterr().err == f"[1/1, 0 s left] map stock round 1: {row.main} 0.25\n"
