"""Tasks on large arrays, for agents of every start method. Needs numpy."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gates import Gate

Array = Any


def array_of(size: int, number: int) -> Array:
    """`size` bytes that nobody else has, and whose first ones say which they are."""
    made = np.arange(number, number + (size + 7) // 8, dtype=np.int64).view(np.uint8)[:size]
    return np.ascontiguousarray(made)


def digest(*arrays: Any) -> list[int]:
    return [zlib.crc32(np.ascontiguousarray(array)) for array in arrays]


def pid_and_digest(*arrays: Any) -> tuple[int, list[int]]:
    return os.getpid(), digest(*arrays)


def echo(value: Any) -> Any:
    return value


def describe(*values: Any) -> list[tuple[str, bool]]:
    return [(type(value).__name__, memoryview(value).readonly) for value in values]


_kept: dict[Any, Any] = {}


def keep(key: Any, array: Array) -> int:
    _kept[key] = array
    return os.getpid()


def kept_digests() -> tuple[int, dict[Any, int]]:
    return os.getpid(), {key: digest(array)[0] for key, array in _kept.items()}


def drop_all() -> None:
    _kept.clear()


def drop_in_thread(gate: Gate) -> None:
    """A thread that goes on after this call drops what is kept, when the gate lets it."""

    def run() -> None:
        gate.wait()
        _kept.clear()

    threading.Thread(target=run, daemon=True).start()


def read_in_thread(array: Array, gate: Gate, answer: str) -> None:
    """A thread that holds up this process's end reads the array when the gate lets it, and notes what it is."""

    def run() -> None:
        gate.wait()
        Path(answer).write_text(str(digest(array)[0]))

    threading.Thread(target=run).start()


def change_and_die_once(array: Array, marker: str) -> list[int]:
    """Changes its argument and dies, unless it has before; what it finds then."""
    found = digest(array)
    if not os.path.exists(marker):
        Path(marker).touch()
        array[:] = 0
        os.kill(os.getpid(), signal.SIGKILL)
    return found


def fork_a_reader(array: Array, gate: Gate, answer: str) -> int:
    """A child that outlives this call reads the array when the gate lets it, and notes what it is."""
    pid = os.fork()
    if pid:
        return pid
    try:
        gate.wait()
        Path(answer).write_text(str(digest(array)[0]))
    finally:
        os._exit(0)


def change(array: Array) -> list[int]:
    array += 1
    return digest(array)


def are_one(values: Sequence[Any]) -> bool:
    return values[0] is values[1]


def make(size: int, number: int) -> Array:
    return array_of(size, number)


def make_readonly(size: int, number: int) -> Array:
    made = array_of(size, number)
    made.flags.writeable = False
    return made


def make_many(sizes: Sequence[int], number: int) -> list[Array]:
    return [array_of(size, number + i) for i, size in enumerate(sizes)]


class Package:
    """An object with its own way through protocol 5."""

    def __init__(self, content: Any, note: str = "") -> None:
        self.content, self.note = content, note

    def first_and(self, number: int) -> tuple[int, int]:
        return first_and(self.content, number)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Package, (pickle.PickleBuffer(self.content), self.note)


class Rewritten:
    """One that a registered reducer has its own idea of."""

    def __init__(self, array: Any) -> None:
        self.array = array


def rewrite(value: Rewritten) -> Any:
    return str, (f"rewritten {len(value.array)}",)


def digest_of_shared(handle: Any) -> list[int]:
    return digest(handle.value)


def look_at_shared(handles: Any) -> tuple[int, int, bool]:
    """This process, where the array lies, and whether it can be written."""
    array = handles["here"].value
    return os.getpid(), array.ctypes.data, array.flags.writeable


def keep_shared(handle: Any) -> None:
    _kept["handle"] = handle


def keep_value(handle: Any) -> None:
    _kept["value"] = handle.value


def try_kept() -> Any:
    """What the kept handle, or its value, gives now."""
    try:
        return digest(_kept["value"] if "value" in _kept else _kept["handle"].value)
    except Exception as error:
        return type(error).__name__, str(error)


def in_a_pool_of_its_own(handle: Any) -> list[list[int]]:
    """An agent that has a pool reads the handle in that one's agents."""
    import mpsteal

    with mpsteal.Pool(2) as pool:
        return pool.map(digest_of_shared, [handle] * 4)


def in_a_fork(handle: Any, gate: Gate, answer: str) -> None:
    array = handle.value
    if os.fork():
        return
    try:
        gate.wait()
        Path(answer).write_text(str(digest(array)[0]))
    finally:
        os._exit(0)


def first_and(array: Any, number: int) -> tuple[int, int]:
    return bytes(array[:1])[0], number


def count_loads(handle: Any) -> int:
    """How often this process has unpickled the object so far."""
    return int(handle.value.loads)


class Counted:
    """An object that counts how often it was unpickled."""

    loads = 0

    def __setstate__(self, state: Any) -> None:
        Counted.loads += 1

    def __getstate__(self) -> Any:
        return {"content": bytes(100_000)}
