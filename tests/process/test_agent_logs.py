"""What tasks log reaches the parent's `logging`, once, with agent and task."""

from __future__ import annotations

import logging
import multiprocessing
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from gates import Gate, Gates
from waiting import ALARM_S, wait_until

import mpsteal
from mpsteal import Agent, Task
from mpsteal._agent import logs

Open = Callable[..., mpsteal.Pool]
OpenScheduler = Callable[..., mpsteal.WorkStealingScheduler]

log = logging.getLogger("tests.agent_logs")


class Kept(logging.Handler):
    """Keeps what it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[Any] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def texts(self) -> list[str]:
        return [record.getMessage() for record in self.records]


class Holding(Kept):
    """Holds up whoever handles the first record."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        super().emit(record)
        self.go.wait(ALARM_S)


@pytest.fixture
def kept() -> Iterator[Kept]:
    """Everything that comes to the logger of this module from INFO on."""
    handler = Kept()
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield handler
    log.removeHandler(handler)
    log.setLevel(logging.NOTSET)


class Unpicklable:
    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __repr__(self) -> str:
        return "<unpicklable>"


def say(text: str, *args: Any, **options: Any) -> int:
    log.info(text, *args, **options)
    log.debug("nobody wants this")
    return os.getpid()


def say_all() -> None:
    log.info("plain %d %s", 1, "two")
    log.info("%r", Unpicklable())
    log.info("more", extra={"what": "word", "who": Unpicklable(), "path": Path("a")})
    log.info("%(a)s", {"a": 5})
    try:
        raise ValueError("inside")
    except ValueError:
        log.exception("failed")


def say_and_die() -> None:
    log.info("last words")
    os.kill(os.getpid(), signal.SIGKILL)


def say_many(count: int) -> None:
    for i in range(count):
        log.info("%d", i)


def say_in_threads(gate: Gate) -> None:
    threads = [threading.Thread(target=say_many, args=(50,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gate.wait()  # they have arrived while the task still runs


def say_long(size: int) -> None:
    log.info("x" * size)
    log.info("after")


def configure(path: str) -> None:
    logging.basicConfig(filename=path, level=logging.INFO, format="%(message)s")
    log.setLevel(logging.INFO)


def say_at_start() -> None:
    log.info("at the start")


def say_in_a_child() -> None:
    pid = os.fork()
    if not pid:
        log.info("from a child")
        os._exit(0)
    os.waitpid(pid, 0)


def test_records_arrive_once_with_agent_and_task(open_pool: Open, kept: Kept, start_method: str) -> None:
    pool = open_pool(1, start_method)
    first = pool.apply(say, ("one",))
    pool.apply(say, ("two",))
    pool.terminate()
    assert kept.texts == ["one", "two"]
    assert [(r.agent, r.agent_pid, r.process) for r in kept.records] == [(0, first, first)] * 2
    assert [r.task for r in kept.records] == [0, 1]
    assert kept.records[0].levelno == logging.INFO and kept.records[0].processName == "mpsteal-0"


def say_in_a_pool_of_its_own() -> list[int]:
    log.info("outside")
    with mpsteal.Pool(1, context=multiprocessing.get_context("fork")) as pool:
        return [pool.apply(say, (f"inside {i}",)) for i in range(3)]


def test_pool_inside_a_task_of_a_scheduler_logs_too(open_scheduler: OpenScheduler, kept: Kept) -> None:
    """Its agents are forks of one that tells its parent who has logged; they have nobody to tell that."""
    scheduler = open_scheduler(Agent("alice"), method="fork")
    inside = scheduler.submit_task(Task("t", fn=say_in_a_pool_of_its_own)).result(ALARM_S)
    assert len(set(inside)) == 1
    scheduler.stop()
    assert sorted(kept.texts) == ["inside 0", "inside 1", "inside 2", "outside"]


def test_records_name_the_tasks_of_a_scheduler(open_scheduler: OpenScheduler) -> None:
    """Also those whose task is over, or whose agent is dead, before they are read: the first one holds up the rest."""
    handler = Holding()
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        scheduler = open_scheduler(Agent("alice", ["x"]))
        tasks = [scheduler.submit_task(Task("t", ["x"], fn=say, args=(str(i),))) for i in range(50)]
        dying = scheduler.submit_task(Task("d", ["x"], fn=say_and_die))
        with pytest.raises(mpsteal.AgentDiedError):
            dying.result()
        handler.go.set()
        scheduler.stop()
    finally:
        handler.go.set()
        log.removeHandler(handler)
        log.setLevel(logging.NOTSET)
    assert {r.getMessage(): r.task for r in handler.records} == {
        **{str(i): task.id for i, task in enumerate(tasks)},
        "last words": dying.id,
    }
    assert {r.agent for r in handler.records} == {"alice"}


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_records_are_as_rich_as_they_were(open_pool: Open, kept: Kept, method: str) -> None:
    pool = open_pool(1, method)
    pool.apply(say_all)
    pool.terminate()
    assert kept.texts == ["plain 1 two", "<unpicklable>", "more", "5", "failed"]
    plain, shown, more, _, failed = kept.records
    assert plain.args == (1, "two") and not shown.args  # apart where that can be, else in words
    assert (more.what, more.who, more.path) == ("word", "<unpicklable>", Path("a"))
    assert failed.exc_info is None and "ValueError: inside" in failed.exc_text
    assert "ValueError: inside" in logging.Formatter().format(failed)


def test_a_killed_agent_loses_nothing_it_has_logged(open_pool: Open, kept: Kept) -> None:
    pool = open_pool(1)
    with pytest.raises(mpsteal.AgentDiedError):
        pool.apply(say_and_die)
    pool.terminate()
    assert "last words" in kept.texts


def test_threads_of_a_task_and_their_children_log_too(open_pool: Open, kept: Kept, gates: Gates) -> None:
    pool = open_pool(1)
    gate = gates("held")
    held = pool.apply_async(say_in_threads, (gate,))
    gate.wait_arrived()
    wait_until(lambda: len(kept.records) == 200, "all records, while the task runs")
    gate.open()
    held.get()
    pool.apply(say_in_a_child)
    pool.terminate()
    assert sorted(kept.texts[:200], key=int) == sorted([str(i) for i in range(50)] * 4, key=int)
    assert kept.texts[200:] == ["from a child"]


def test_records_longer_than_a_frame_arrive_and_huge_ones_are_cut(open_pool: Open, kept: Kept) -> None:
    pool = open_pool(2)
    pool.starmap(say_long, [(100_000,)] * 8, chunksize=1)
    pool.apply(say_long, (5 * logs.LARGEST_RECORD,))
    pool.terminate()
    assert sorted(kept.texts[:-2]) == ["after"] * 8 + ["x" * 100_000] * 8
    assert kept.texts[-2].endswith(logs.CUT) and len(kept.texts[-2]) < logs.LARGEST_RECORD
    assert kept.texts[-1] == "after"


def test_a_flood_waits_for_the_handlers_and_loses_nothing(open_pool: Open, kept: Kept) -> None:
    pool = open_pool(2)
    pool.starmap(say_many, [(2000,)] * 4, chunksize=1)
    pool.terminate()
    assert sorted(kept.texts, key=int) == sorted([str(i) for i in range(2000)] * 4, key=int)


def test_handlers_that_hang_cost_records_and_one_warning_not_the_task(
    open_pool: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logs, "FULL_WAIT_S", 0.05)  # inherited
    handler = Holding()
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        pool = open_pool(1)
        pool.apply(say_many, (1,))
        wait_until(lambda: handler.records, "who reads is held")
        pool.apply(say_many, (3000,))  # it ends, although nobody reads
        handler.go.set()
        pipe = pool._engine.logs._read
        wait_until(lambda: not select.select([pipe], [], [], 0)[0], "there is room for the warning")
        pool.close()
        pool.join()
    finally:
        log.removeHandler(handler)
        log.setLevel(logging.NOTSET)
    arrived = len(handler.records)
    assert 1 < arrived < 3001
    (warning,) = [record for record in caplog.records if getattr(record, "event", "") == "logs_dropped"]
    assert f"dropped {3001 - arrived} log records" in warning.getMessage()


class TestWhoHasWhichHandlers:
    def test_a_handler_of_the_initializer_keeps_its_records(self, open_pool: Open, kept: Kept, tmp_path: Path) -> None:
        pool = open_pool(1, initializer=configure, initargs=(str(tmp_path / "log"),))
        pool.apply(say, ("mine",))
        pool.terminate()
        assert (tmp_path / "log").read_text() == "mine\n"
        assert kept.texts == []

    def test_handlers_of_the_parent_write_in_the_parent_alone(self, open_pool: Open, tmp_path: Path) -> None:
        handler = logging.FileHandler(tmp_path / "log")
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        try:
            pool = open_pool(2)
            pool.map(say, ["once"] * 6)
            pool.terminate()
        finally:
            log.removeHandler(handler)
            handler.close()
            log.setLevel(logging.NOTSET)
        assert (tmp_path / "log").read_text() == "once\n" * 6

    def test_the_initializer_logs_too(self, open_pool: Open, kept: Kept) -> None:
        pool = open_pool(1, initializer=say_at_start)
        pool.apply(abs, (-1,))
        pool.terminate()
        assert kept.texts == ["at the start"] and kept.records[0].task is None

    def test_logs_false_leaves_logging_alone(self, open_pool: Open, kept: Kept) -> None:
        pool = open_pool(1, logs=False)
        assert pool.apply(handlers_of_log) == ["Kept"]  # the fork's own copy
        pool.apply(say, ("unheard",))
        pool.terminate()
        assert kept.texts == []

    def test_records_of_libraries_with_a_null_handler_are_sent(self, open_pool: Open, kept: Kept) -> None:
        pool = open_pool(1, initializer=add_null_handler)
        pool.apply(say, ("heard",))
        pool.terminate()
        assert kept.texts == ["heard"]

    def test_who_logs_nothing_has_no_thread_for_it(self, open_pool: Open) -> None:
        pool = open_pool(2)
        pool.map(abs, range(100))
        assert "mpsteal-logs" not in [thread.name for thread in threading.enumerate()]

    def test_a_handler_that_raises_does_not_stop_the_next(
        self, open_pool: Open, caplog: pytest.LogCaptureFixture, kept: Kept
    ) -> None:
        def refuse(record: logging.LogRecord) -> bool:
            if record.getMessage() == "bad":
                raise ValueError("a filter's")
            return True

        pool = open_pool(1)  # before: else the fork's filter would raise in the task
        pool.apply(abs, (1,))
        log.addFilter(refuse)
        try:
            pool.map(say, ["bad", "good"], chunksize=1)
            pool.terminate()
        finally:
            log.removeFilter(refuse)
        assert kept.texts == ["good"]
        assert [r.event for r in caplog.records if hasattr(r, "event")] == ["log_failed"]


def handlers_of_log() -> list[str]:
    return [type(handler).__name__ for handler in log.handlers]


def add_null_handler() -> None:
    log.addHandler(logging.NullHandler())


def test_logging_is_not_imported_for_this_and_found_by_who_imports_it(tmp_path: Path) -> None:
    (tmp_path / "quiet.py").write_text(
        "import sys\n"
        "def is_imported(_): return 'logging' in sys.modules\n"
        "def say(x):\n"
        "    import logging\n"
        "    logging.getLogger('a.b').info('it is %d', x)\n"
        "    logging.getLogger('a.c').info('unwanted')\n"
        "    return sorted(h.__class__.__name__ for h in logging.root.handlers)\n"
    )
    (tmp_path / "program.py").write_text(
        "import mpsteal, quiet\n"
        "if __name__ == '__main__':\n"
        "    import logging\n"
        "    logging.basicConfig(format='%(levelname)s %(message)s %(agent)s')\n"
        "    logging.getLogger('a.b').setLevel('INFO')\n"
        "    with mpsteal.Pool(1, context='spawn') as pool:\n"
        "        print(pool.apply(quiet.is_imported, (0,)), pool.apply(quiet.say, (7,)))\n"
    )
    paths = os.pathsep.join([str(Path(mpsteal.__file__).resolve().parents[1]), str(tmp_path)])
    done = subprocess.run(
        [sys.executable, str(tmp_path / "program.py")],
        capture_output=True,
        text=True,
        timeout=ALARM_S,
        env={**os.environ, "PYTHONPATH": paths},
        check=False,
    )
    assert (done.stdout, done.stderr) == ("False ['Handler']\n", "INFO it is 7 0\n")


def test_an_executor_too(kept: Kept) -> None:
    with mpsteal.Executor(1, "fork") as executor:
        assert executor.submit(lambda: say("from a call")).result()
    assert kept.texts == ["from a call"]
    assert (kept.records[0].agent, kept.records[0].task) == (0, 0)
