"""What the self-test sends to agents. In a module of its own, so that agents of every start method can import it."""

from __future__ import annotations

import os
import time


def give_back(value: int) -> int:
    """Do nothing."""
    return value


def note_and_spin(path: str, number: int, spin_s: float) -> int:
    """Append a line to a file, one write, so that lines never mix; then keep a core busy."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, f"{number}\n".encode())
    finally:
        os.close(fd)
    until = time.monotonic() + spin_s
    while time.monotonic() < until:
        pass
    return number
