"""Six pools behind one face, each used as its documentation says.

Only public names are used: workers are found by tasks that return their pid. What a pool does not have (a time limit
per task, a way to end what runs) is not imitated: the scenario that needs it says "no such feature".
"""

from __future__ import annotations

import concurrent.futures
import importlib
import importlib.metadata
import importlib.util
import inspect
import multiprocessing
import platform
from collections.abc import Callable, Iterable, Iterator
from typing import Any

INSTALL = "pip install '.[peers]'"
"""What puts the missing ones there; the extra is in pyproject.toml."""


class Adapter:
    """One pool; ``open`` comes first. Handles are of the pool's own kind, `wait` and `get` read them."""

    name = ""
    label = ""  # in tables
    package = ""  # import name; empty: part of Python
    distribution = ""
    pool: Any

    def version(self) -> str:
        if not self.distribution:
            return platform.python_version()
        return importlib.metadata.version(self.distribution)

    def start_method(self) -> str:
        return multiprocessing.get_context().get_start_method()

    def has_time_limit(self) -> bool:
        """Whether a task can be given a time limit, after which it is ended."""
        return False

    def has_terminate(self) -> bool:
        """Whether there is a call that ends tasks which are running."""
        return True

    def open(self, workers: int, *, initializer: Callable[[], object] | None = None, nested: bool = False) -> None:
        raise NotImplementedError

    def submit(
        self,
        function: Callable[..., Any],
        *args: Any,
        callback: Callable[[Any], object] | None = None,
        timeout: float | None = None,
    ) -> Any:
        raise NotImplementedError

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        return list(self.pool.map(function, items))

    def lazy_map(self, function: Callable[[Any], Any], items: Iterable[Any], count: int, chunk: int) -> Iterator[Any]:
        """The pool's map that yields results one by one, in order."""
        raise NotImplementedError

    def wait(self, handle: Any, timeout: float) -> bool:
        """Whether ``handle`` is done, after at most so many seconds."""
        handle.wait(timeout)
        return bool(handle.ready())

    def get(self, handle: Any) -> Any:
        """Its value or its exception, once it is done."""
        return handle.get(0)

    def terminate(self) -> None:
        """End what runs, now."""
        raise NotImplementedError

    def end(self) -> None:
        """End the pool when nothing is left to do."""
        self.terminate()


class Stock(Adapter):
    name = "multiprocessing"
    label = "stock Pool"

    def open(self, workers: int, *, initializer: Any = None, nested: bool = False) -> None:  # noqa: ARG002
        self.pool = self.make()(workers, initializer)

    def make(self) -> Any:
        return multiprocessing.Pool

    def submit(self, function: Any, *args: Any, callback: Any = None, timeout: float | None = None) -> Any:
        more = {} if timeout is None else {"timeout": timeout}
        return self.pool.apply_async(function, args, callback=callback, **more)

    def lazy_map(self, function: Any, items: Any, count: int, chunk: int) -> Any:  # noqa: ARG002
        return self.pool.imap(function, items, chunksize=chunk)

    def terminate(self) -> None:
        self.pool.terminate()
        self.pool.join()

    def end(self) -> None:
        self.pool.close()
        self.pool.join()


class Ours(Stock):
    name = "mpsteal"
    label = "mpsteal"
    package = "mpsteal"
    distribution = ""

    def version(self) -> str:
        return str(importlib.import_module("mpsteal").__version__)

    def make(self) -> Any:
        return importlib.import_module("mpsteal").Pool

    def has_time_limit(self) -> bool:
        return "timeout" in inspect.signature(self.make().apply_async).parameters


class Futures(Adapter):
    name = "concurrent.futures"
    label = "ProcessPoolExecutor"

    def open(self, workers: int, *, initializer: Any = None, nested: bool = False) -> None:  # noqa: ARG002
        self.pool = concurrent.futures.ProcessPoolExecutor(workers, initializer=initializer)

    def has_terminate(self) -> bool:
        return hasattr(concurrent.futures.ProcessPoolExecutor, "kill_workers")  # from 3.14 on

    def submit(self, function: Any, *args: Any, callback: Any = None, timeout: float | None = None) -> Any:  # noqa: ARG002
        return self._with(self.pool.submit(function, *args), callback)

    @staticmethod
    def _with(future: Any, callback: Any) -> Any:
        if callback is not None:
            future.add_done_callback(lambda done: callback(done.result()))
        return future

    def lazy_map(self, function: Any, items: Any, count: int, chunk: int) -> Any:  # noqa: ARG002
        return self.pool.map(function, items, chunksize=chunk)

    def wait(self, handle: Any, timeout: float) -> bool:
        return bool(concurrent.futures.wait([handle], timeout).done)

    def get(self, handle: Any) -> Any:
        return handle.result(0)

    def terminate(self) -> None:
        self.pool.kill_workers()

    def end(self) -> None:
        self.pool.shutdown()


class Loky(Futures):
    name = "loky"
    label = "loky"
    package = distribution = "loky"

    def open(self, workers: int, *, initializer: Any = None, nested: bool = False) -> None:  # noqa: ARG002
        self.pool = importlib.import_module("loky").ProcessPoolExecutor(workers, initializer=initializer)

    def start_method(self) -> str:
        return str(importlib.import_module("loky.backend").get_context().get_start_method())

    def has_terminate(self) -> bool:
        return True

    def terminate(self) -> None:
        self.pool.shutdown(kill_workers=True)


class Pebble(Futures):
    name = "pebble"
    label = "pebble"
    package = "pebble"
    distribution = "Pebble"

    def open(self, workers: int, *, initializer: Any = None, nested: bool = False) -> None:  # noqa: ARG002
        self.pool = importlib.import_module("pebble").ProcessPool(workers, initializer=initializer)

    def has_time_limit(self) -> bool:
        return True

    def has_terminate(self) -> bool:
        return True

    def submit(self, function: Any, *args: Any, callback: Any = None, timeout: float | None = None) -> Any:
        return self._with(self.pool.schedule(function, args=args, timeout=timeout), callback)

    def map(self, function: Any, items: Any) -> list[Any]:
        return list(self.pool.map(function, items).result())

    def lazy_map(self, function: Any, items: Any, count: int, chunk: int) -> Any:  # noqa: ARG002
        return self.pool.map(function, items, chunksize=chunk).result()

    def terminate(self) -> None:
        self.pool.stop()
        self.pool.join()

    def end(self) -> None:
        self.pool.close()
        self.pool.join()


class Mpire(Adapter):
    name = "mpire"
    label = "mpire"
    package = distribution = "mpire"
    _initializer: Any = None

    def open(self, workers: int, *, initializer: Any = None, nested: bool = False) -> None:
        self.pool = importlib.import_module("mpire").WorkerPool(workers, daemon=not nested)
        self._initializer = initializer

    def has_time_limit(self) -> bool:
        return True

    def submit(self, function: Any, *args: Any, callback: Any = None, timeout: float | None = None) -> Any:
        return self.pool.apply_async(
            function, args, callback=callback, worker_init=self._initializer, task_timeout=timeout
        )

    def lazy_map(self, function: Any, items: Any, count: int, chunk: int) -> Any:
        return self.pool.imap(function, items, iterable_len=count, chunk_size=chunk)

    def get(self, handle: Any) -> Any:
        return handle.get()

    def terminate(self) -> None:
        self.pool.terminate()

    def end(self) -> None:
        self.pool.stop_and_join()


ADAPTERS: dict[str, type[Adapter]] = {adapter.name: adapter for adapter in (Stock, Futures, Loky, Pebble, Mpire, Ours)}


def load(name: str) -> Adapter:
    return ADAPTERS[name]()


def is_installed(name: str) -> bool:
    package = ADAPTERS[name].package
    return not package or importlib.util.find_spec(package) is not None
