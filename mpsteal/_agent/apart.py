"""A start method for agents that know nothing of the program's `__main__`: `spawn` without its import.

`spawn` runs the main module once more in every process it starts, so a script without `if __name__ == "__main__"`
starts itself over and over, and a fork takes along whatever state the libraries of the parent are in (the threads of an
OpenMP runtime that has been used do not survive one: what needs them next hangs). Who sends functions of `__main__` by
value needs neither.
"""

from __future__ import annotations

import multiprocessing.context
from multiprocessing import popen_spawn_posix, spawn
from types import FunctionType, SimpleNamespace
from typing import Any

_OF_MAIN = ("init_main_from_name", "init_main_from_path")


def _preparation_without_main(name: str) -> dict[str, Any]:
    data = spawn.get_preparation_data(name)
    return {key: value for key, value in data.items() if key not in _OF_MAIN}


class _Popen(popen_spawn_posix.Popen):
    # The one of the interpreter that runs, but for what it calls to find out about the main module.
    _launch: Any = FunctionType(
        popen_spawn_posix.Popen._launch.__code__,  # type: ignore[attr-defined]  # not in typeshed
        {
            **vars(popen_spawn_posix),
            "spawn": SimpleNamespace(**{**vars(spawn), "get_preparation_data": _preparation_without_main}),
        },
    )


class ApartProcess(multiprocessing.context.SpawnProcess):
    """A process that is started so."""

    @staticmethod
    def _Popen(process_obj: Any) -> Any:
        return _Popen(process_obj)


class ApartContext(multiprocessing.context.SpawnContext):
    """`spawn` in all else."""

    Process = ApartProcess
