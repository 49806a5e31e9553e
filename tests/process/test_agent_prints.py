"""What agents print is not interleaved within a line, into pipes and files; streams of others are left alone."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from waiting import ALARM_S

import mpsteal
from mpsteal._agent import lines

Open = Callable[..., mpsteal.Pool]

PRINTS = """\
import mpsteal, sys
def say(i):
    for size in (10, 3000, 20_000):
        print("<", i, "x" * size, ">", sep="|")
        print("<", i, "y" * size, ">", sep="|", file=sys.stderr)
if __name__ == "__main__":
    with mpsteal.Pool(4, context=sys.argv[1]) as pool:
        pool.map(say, range(40), chunksize=1)
        pool.close()
        pool.join()
"""

LINE = re.compile(r"<\|\d+\|(x*|y*)\|>")


def run(directory: Path, source: str, *arguments: str, stdout: int = subprocess.PIPE, unbuffered: bool = False) -> str:
    """What a program prints, on both streams, into one pipe or file."""
    script = directory / "program.py"
    script.write_text(source)
    environment = {**os.environ, "PYTHONPATH": str(Path(mpsteal.__file__).resolve().parents[1])}
    environment.pop("PYTHONUNBUFFERED", None)
    if unbuffered:
        environment["PYTHONUNBUFFERED"] = "1"
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        stdout=stdout,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=ALARM_S,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.parametrize(("method", "unbuffered"), [("fork", False), ("fork", True), ("spawn", False)])
def test_lines_in_a_pipe_are_whole(tmp_path: Path, method: str, unbuffered: bool) -> None:
    found = run(tmp_path, PRINTS, method, unbuffered=unbuffered).splitlines()
    assert len(found) == 240
    assert not [line[:50] for line in found if not LINE.fullmatch(line)]


def test_lines_in_a_file_are_whole(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with path.open("wb") as file:
        run(tmp_path, PRINTS, "fork", stdout=file.fileno())
    found = path.read_text().splitlines()
    assert len(found) == 240
    assert not [line[:50] for line in found if not LINE.fullmatch(line)]


BEGUN = """\
import logging, mpsteal, os, sys, threading
logging.getLogger("mpsteal").disabled = True
def begin(i):
    print(i, end="")
    return os.getpid()
def end():
    print("!")
def flush():
    print("a", end="")
    sys.stdout.flush()
    print("b", end="", flush=True)
    print("c", end="\\r")
    print("d")
def both():
    print("before", end="")
    other = threading.Thread(target=print, args=("other",))
    other.start()
    other.join()
    print(" after")
def child():
    print("begun", end="")
    pid = os.fork()
    if pid == 0:
        print("child")
        os._exit(0)
    os.waitpid(pid, 0)
    print(" and ended")
def die():
    print("whole")
    print("lost", end="")
    os.kill(os.getpid(), 9)
if __name__ == "__main__":
    with mpsteal.Pool(1, context="fork") as pool:
        calls = [pool.apply_async(begin, (i,)) for i in range(3)]
        [call.get() for call in calls]
        pool.apply(end)
        for task in (flush, both, child):
            pool.apply(task)
        try: pool.apply(die)
        except mpsteal.AgentDiedError: pass
        pool.apply(begin, ("last",))
        pool.close()
        pool.join()
"""


def test_what_has_no_end_waits_for_it_for_flush_or_for_the_end(tmp_path: Path) -> None:
    """Threads and forks of a task do not meet in one line; a killed agent has written what was whole."""
    out = run(tmp_path, BEGUN)
    assert out == "012!\nabc\rd\nother\nbefore after\nchild\nbegun and ended\nwhole\nlast".replace("\r", "\n")


def replace_stdout(path: str) -> None:
    sys.stdout = open(path, "w", buffering=1)  # noqa: SIM115  it stays


def kinds() -> list[str]:
    return [type(getattr(stream, "buffer", None)).__name__ for stream in (sys.stdout, sys.stderr)]


def test_a_stream_of_the_initializer_stays(open_pool: Open, tmp_path: Path) -> None:
    pool = open_pool(1, initializer=replace_stdout, initargs=(str(tmp_path / "out"),))
    pool.apply(print, ("to the file",))
    assert (tmp_path / "out").read_text() == "to the file\n"


def test_streams_that_somebody_has_put_in_place_are_left_alone(
    open_pool: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setattr(sys, "stderr", None)
    pool = open_pool(1)
    assert "WholeLines" not in pool.apply(kinds)
    pool.apply(print, ("unheard",))


def make_lines(fd: int, tmp_path: Path) -> lines.WholeLines:
    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    return lines.WholeLines(fd, "<pipe>", (lock, 7))


def test_a_line_waits_for_another_process_but_not_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LOCK_WAIT_S", 0.01)
    read, write = os.pipe()
    ready_read, ready_write = os.pipe()
    stream = make_lines(write, tmp_path)
    assert stream._lock is not None
    pid = os.fork()
    if not pid:
        stream._try_lock()
        os.write(ready_write, b"1")
        while True:
            signal.pause()  # until it is killed
    try:
        os.read(ready_read, 1)
        assert not stream._try_lock()
        stream.write(b"all the same\n")
        assert os.read(read, 100) == b"all the same\n"
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        for fd in (read, write, ready_read, ready_write, stream._lock[0]):
            os.close(fd)


def test_binary_data_without_lines_is_not_kept_for_ever(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file:
        stream = lines.WholeLines(file.fileno(), "<file>", (-1, 0))  # a file needs no lock
        stream.write(b"x" * 40_000)
        stream.write(b"y" * 20_000)
        assert lines.unfinished
        stream.write(b"z" * 5_536 + b"!")
        assert not lines.unfinished
    assert (tmp_path / "out").stat().st_size == lines.LONGEST_UNFINISHED + 1
