"""Runs the self-test in a process of its own, with a time limit, and passes on what it finds.

watch --stdin: a pipe that ends with us--> self-test (a session of its own, so Ctrl-C comes to us alone)
  ^ stdout: a JSON line for each part and each finding
  ^ stderr: shown when it ends badly
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from . import ADVICE, PROBLEM, Finding

PATIENCE_S = 60.0
"""How long all but the storm may take. It takes about 3 s; where cores are short several times as much."""

INTERRUPT_S = 5.0
"""How long the self-test may take to clear away after Ctrl-C before it is killed; pools end within 2 s."""

FAMILY_S = 2.0
"""How long processes of a pool may outlive their parent: what mpsteal promises."""

TAIL_BYTES = 2000
"""How much of its standard error is shown when it ended badly."""


def run_self_test(
    seconds: float, report: Callable[[Finding], None], *, patience_s: float = PATIENCE_S, code: str | None = None
) -> None:
    """Run it, and call `report` for each finding. Returns when its process and the pools' are gone.

    Args:
        seconds: length of the storm.
        patience_s: what the rest may take.
        code: what to run instead, for tests.

    Raises:
        KeyboardInterrupt: Ctrl-C, when everything is gone.
    """
    limit_s = seconds + patience_s
    folder = ""
    try:
        folder = tempfile.mkdtemp(prefix="mpsteal-doctor-")
        code = code or (
            f"import sys; sys.path[:] = {sys.path!r}; from mpsteal._doctor.selftest import main; "
            f"sys.exit(main({seconds!r}, {limit_s!r}, {folder!r}))"
        )
        pipe = subprocess.PIPE
        child = subprocess.Popen(
            [sys.executable, "-c", code], stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True
        )
    except OSError as error:
        report(Finding("self-test", PROBLEM, f"could not be started: {error}", ADVICE))
    else:
        with child:
            try:
                _follow(child, time.monotonic() + limit_s, limit_s, report)
            except KeyboardInterrupt:
                child.send_signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(INTERRUPT_S)
                raise
            finally:
                _end(child)
    finally:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def _follow(child: subprocess.Popen[bytes], deadline: float, limit_s: float, report: Callable[[Finding], None]) -> None:
    assert child.stdout is not None
    assert child.stderr is not None
    part, tail = "its start", b""
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        selector.register(child.stderr, selectors.EVENT_READ)
        while child.poll() is None or selector.get_map():
            left = deadline - time.monotonic()
            if left <= 0:
                report(_ended_badly(part, f"not done after {limit_s:g} s, so it was ended", tail))
                return
            events = selector.select(min(left, 0.2))
            for key, _ in events:
                data = os.read(key.fd, 65536)
                if not data:
                    selector.unregister(key.fileobj)
                elif key.fileobj is child.stderr:
                    tail = (tail + data)[-TAIL_BYTES:]
                else:
                    *lines, rest = (rest + data).split(b"\n")
                    for line in lines:
                        part = _read(line, part, report)
            if not events and child.poll() is not None:
                break  # a process of a pool may hold copies of the pipes, so their end may not come
    if child.returncode:
        how = f"killed by signal {-child.returncode}" if child.returncode < 0 else f"exit code {child.returncode}"
        report(_ended_badly(part, f"it ended early ({how})", tail))


def _read(line: bytes, part: str, report: Callable[[Finding], None]) -> str:
    """Take one line; returns the part that it is at now."""
    said = json.loads(line)
    if "finding" in said:
        report(Finding(*said["finding"]))
        return part
    return str(said["part"])


def _ended_badly(part: str, what: str, tail: bytes) -> Finding:
    text = tail.decode(errors="replace").strip()
    return Finding("self-test", PROBLEM, f"{what}; it was at: {part}" + (f"\n{text}" if text else ""), ADVICE)


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill it, if it is there. Its pools' Managers then end the agents and remove their folders; but they are what is
    tested here, so what is still there a little later is killed, too."""
    import psutil

    if child.poll() is not None:
        return
    family = []
    with contextlib.suppress(psutil.Error):
        family = psutil.Process(child.pid).children(recursive=True)
    child.kill()
    child.wait()
    _, alive = psutil.wait_procs(family, FAMILY_S)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()
