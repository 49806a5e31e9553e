"""`progress=` of map-like calls: what is counted and drawn, and that it ends with the call and holds up nothing."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import signal
import struct
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import map_tasks as tasks
import pytest
from fault_tasks import identity
from gates import Gates
from waiting import wait_until

import mpsteal
from mpsteal import progress as module
from mpsteal.progress import Line, text_of

Open = Callable[..., mpsteal.Pool]

WAYS: dict[str, Callable[[mpsteal.Pool, Any, Any], Any]] = {
    "map": lambda pool, items, shown: pool.map(identity, items, progress=shown),
    "map_async": lambda pool, items, shown: pool.map_async(identity, items, 7, progress=shown).get(),
    "starmap": lambda pool, items, shown: pool.starmap(identity, [(i,) for i in items], progress=shown),
    "starmap_async": lambda pool, items, shown: pool.starmap_async(identity, zip(items), progress=shown).get(),
    "imap": lambda pool, items, shown: list(pool.imap(identity, items, progress=shown)),
    "imap_unordered": lambda pool, items, shown: sorted(pool.imap_unordered(identity, items, 7, progress=shown)),
}


@pytest.fixture
def written(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """What standard error, which is no terminal, has got."""
    return lambda: capsys.readouterr().err


@pytest.fixture
def without_tqdm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)


def drawing() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "mpsteal-progress"]


@pytest.mark.parametrize("way", list(WAYS))
@pytest.mark.usefixtures("without_tqdm")
def test_a_line_counts_items(open_pool: Open, written: Callable[[], str], way: str) -> None:
    assert WAYS[way](open_pool(2), range(50), "lots") == list(range(50))
    assert not drawing(), "the last line is there before the results are"
    first, *rest = written().split("\n")
    assert first.startswith("lots: 50/50 items, 100%, ") and first.count("/s, ") == 1
    assert rest == [""]


@pytest.mark.parametrize("way", list(WAYS))
def test_tqdm_counts_items(open_pool: Open, written: Callable[[], str], way: str) -> None:
    pytest.importorskip("tqdm")
    assert WAYS[way](open_pool(2), range(50), "lots") == list(range(50))
    assert not drawing()
    last = written().split("\r")[-1]
    assert last.startswith("lots: 100%") and "50/50" in last and last.endswith("\n")


@pytest.mark.usefixtures("without_tqdm")
def test_input_without_a_length(open_pool: Open, written: Callable[[], str]) -> None:
    assert list(open_pool(1).imap(identity, (i for i in range(5)), 2, progress=True)) == list(range(5))
    assert written().startswith("5 items, ")


def test_items_that_are_done_are_counted_while_others_run(open_pool: Open, gates: Gates, tmp_path: Any) -> None:
    task = partial(tasks.at_gates, {10: gates()}, str(tmp_path / "ran"), -1)
    results = open_pool(1).map_async(task, range(15), 5, progress=True)
    gates().wait_arrived()
    wait_until(lambda: results._progress.done == 10, "two chunks of five counted")
    gates().open()
    results.get()
    assert results._progress.done == 15


def test_what_was_withdrawn_is_not_counted(open_pool: Open, gates: Gates, tmp_path: Any) -> None:
    pool = open_pool(1)
    task = partial(tasks.at_gates, {0: gates("wrong"), 1: gates("next")}, str(tmp_path / "ran"), 0)
    results = pool.map_async(task, range(50), 1, progress=True, on_error="cancel")
    gates("wrong").open()
    gates("next").wait_arrived()
    wait_until(lambda: pool._engine.dispatcher.inflight == 1, "the others withdrawn")
    gates("next").open()
    with pytest.raises(ValueError):
        results.get()
    assert results._progress.done == 2


@pytest.mark.parametrize(("on_error", "counted"), [("raise", 20), ("collect", 20), ("cancel", 4)])
def test_items_that_failed_are_counted_and_those_that_never_ran_are_not(
    open_pool: Open, on_error: Any, counted: int
) -> None:
    results = open_pool(1).map_async(tasks.tens_fail, range(20), 20, progress=True, on_error=on_error)
    results.wait()
    assert results._progress.done == counted


@pytest.mark.usefixtures("without_tqdm")
class TestItEnds:
    def test_with_an_error(self, open_pool: Open, written: Callable[[], str]) -> None:
        with pytest.raises(ValueError):
            open_pool(1).map(tasks.tens_fail, range(5), progress=True)
        assert not drawing()
        assert written().startswith("5/5 items")

    def test_with_ctrl_c(self, open_pool: Open, gates: Gates, written: Callable[[], str], tmp_path: Any) -> None:
        task = partial(tasks.at_gates, {1: gates()}, str(tmp_path / "ran"), -1)

        pool = open_pool(1)

        def interrupt() -> None:
            gates().wait_arrived()
            wait_until(lambda: pool._engine.waiting, "it waits")
            os.kill(os.getpid(), signal.SIGINT)

        hand = threading.Thread(target=interrupt)
        hand.start()
        with pytest.raises(KeyboardInterrupt):
            pool.map(task, range(3), 1, progress=True)
        hand.join()
        assert not drawing()
        assert "/3 items" in written()

    def test_with_the_pool(self, open_pool: Open, gates: Gates, written: Callable[[], str], tmp_path: Any) -> None:
        pool = open_pool(1)
        task = partial(tasks.at_gates, {0: gates()}, str(tmp_path / "ran"), -1)
        results = pool.map_async(task, range(3), 1, progress=True)
        iterator = pool.imap(task, range(3), progress=True)
        gates().wait_arrived()
        assert len(drawing()) == 2
        pool.terminate()
        wait_until(lambda: not drawing(), "nothing drawn any more")
        with pytest.raises(mpsteal.PoolTerminatedError):
            results.get()
        with pytest.raises(mpsteal.PoolTerminatedError):
            next(iterator)
        assert written().count("0/3 items, 0%") == 2

    def test_with_an_iterator_that_nobody_reads_to_its_end(self, open_pool: Open, written: Callable[[], str]) -> None:
        pool = open_pool(1)
        iterator = pool.imap(identity, range(50), progress=True)
        assert next(iterator) == 0
        del iterator
        wait_until(lambda: not drawing(), "all of it done")
        assert written().startswith("50/50 items")


@pytest.mark.usefixtures("without_tqdm")
class TestTheStream:
    def test_none_closed_or_broken_costs_nothing(self, open_pool: Open, monkeypatch: pytest.MonkeyPatch) -> None:
        closed = io.StringIO()
        closed.close()
        read, write = os.pipe()
        os.close(read)
        pool = open_pool(1)
        with open(write, "w", closefd=True) as broken:
            for stream in (None, closed, broken):
                monkeypatch.setattr(sys, "stderr", stream)
                assert pool.map(identity, range(5), progress=True) == list(range(5))
            monkeypatch.undo()
            with pytest.raises(BrokenPipeError):
                broken.close()  # what was not written

    def test_one_that_takes_nothing_does_not_stop_the_pool(
        self, open_pool: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "CLOSE_WAIT_S", 0.01)
        read, write = os.pipe()
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
        os.write(write, b"." * 4096)
        with open(write, "w") as full, open(read, "rb") as reader:
            monkeypatch.setattr(sys, "stderr", full)
            pool = open_pool(1)
            assert pool.map(identity, range(5), progress=True) == list(range(5))
            assert list(pool.imap(identity, range(5), progress=True)) == list(range(5))
            assert drawing(), "it is held up, and nobody else is"
            reader.read(4096)
            wait_until(lambda: not drawing(), "what was held up written")
            monkeypatch.undo()


@pytest.mark.parametrize("has_tqdm", [True, False])
def test_a_terminal_line_is_rewritten(
    open_pool: Open, gates: Gates, monkeypatch: pytest.MonkeyPatch, tmp_path: Any, has_tqdm: bool
) -> None:
    if has_tqdm:
        pytest.importorskip("tqdm")
    else:
        monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    theirs, ours = pty.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with open(theirs, "rb", buffering=0) as screen, open(ours, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        task = partial(tasks.at_gates, {1: gates()}, str(tmp_path / "ran"), -1)
        results = open_pool(1).map_async(task, range(2), 1, progress=True)
        seen = b""
        while b"1/2" not in seen:  # drawn while the second runs
            seen += screen.read(1000)
        gates().open()
        results.get()
        while b"2/2" not in seen or b"\n" not in seen:
            seen += screen.read(1000)
        monkeypatch.undo()
    assert seen.count(b"\n") == 1, "one line"
    assert seen.count(b"\r") > 2


class TestText:
    @pytest.mark.parametrize(
        ("done", "total", "elapsed_s", "text"),
        [
            (250, 1000, 5.0, "load: 250/1000 items, 25%, 50.0/s, 0:05, 0:15 left"),
            (0, 1000, 2.0, "load: 0/1000 items, 0%, 0.0/s, 0:02"),
            (999, 1000, 3600.0, "load: 999/1000 items, 99%, 0.3/s, 1:00:00, 0:04 left"),
            (1000, 1000, 61.0, "load: 1000/1000 items, 100%, 16.4/s, 1:01"),
            (7, None, 2.0, "load: 7 items, 3.5/s, 0:02"),
            (0, 0, 0.0, "load: 0/0 items, 0.0/s, 0:00"),
        ],
    )
    def test_of_a_moment(self, done: int, total: int | None, elapsed_s: float, text: str) -> None:
        assert text_of("load", done, total, elapsed_s) == text
        assert text_of("", done, total, elapsed_s) == text.removeprefix("load: ")

    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
        now = [100.0]
        monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
        yield now
        monkeypatch.undo()

    def test_a_log_gets_few_lines(self, clock: list[float]) -> None:
        stream = io.StringIO()
        line = Line("", None, stream)
        for _ in range(250):
            clock[0] += module.DRAW_S
            line.show(3)
        line.close(4)
        assert [text.split(",")[0] for text in stream.getvalue().splitlines()] == ["3 items", "3 items", "4 items"]

    def test_a_shorter_text_covers_a_longer_one(self, clock: list[float]) -> None:
        stream = io.StringIO()
        stream.isatty = lambda: True  # type: ignore[method-assign]
        line = Line("", 10, stream)
        clock[0] += 9.0
        line.show(9)
        line.close(10)
        _, first, last = stream.getvalue().split("\r")
        assert first == "9/10 items, 90%, 1.0/s, 0:09, 0:01 left"
        assert last == "10/10 items, 100%, 1.1/s, 0:09         \n"


def test_tqdm_around_an_iterator_counts_what_is_fetched(open_pool: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    tqdm = pytest.importorskip("tqdm").tqdm
    monkeypatch.setattr(tqdm, "monitor_interval", 0)  # it would start a thread for good
    stream = io.StringIO()
    iterator = open_pool(2).imap(identity, range(20), 3)
    assert list(tqdm(iterator, total=20, file=stream)) == list(range(20))
    assert "20/20" in stream.getvalue()


def test_tqdm_beside_an_executor_has_counted_all_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    concurrent = pytest.importorskip("tqdm.contrib.concurrent")
    std = pytest.importorskip("tqdm.std")
    monkeypatch.setattr(std.tqdm, "monitor_interval", 0)
    stream = io.StringIO()
    results = concurrent._executor_map(
        mpsteal.Executor, identity, range(200), max_workers=1, tqdm_class=std.tqdm, file=stream
    )
    assert results == list(range(200))
    assert "200/200" in stream.getvalue().split("\r")[-1]
