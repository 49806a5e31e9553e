"""Runs the interpreter's own `test.test_concurrent_futures` against `mpsteal.Executor`; nothing of it is copied here.

How a test is run, and what becomes of one that hangs, stands in `cpython_pool.py`, whose program this one is but for
the selection: test cases that have a start method (`ctx`) of their own, since all others are about threads or about
futures without an executor. The exchange is made by `site/sitecustomize.py` in every interpreter.

`MPSTEAL_DROPIN_EXECUTOR=stock` is the control run: the same selection, the stock executor.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import sys
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))  # taken away again by `cpython_pool.main`

import cpython_pool

PACKAGE = "test.test_concurrent_futures"


def modules() -> Iterator[Any]:
    """One module up to Python 3.11, a package of many from 3.12 on. ImportError: the installation has neither."""
    top = importlib.import_module(PACKAGE)
    if not hasattr(top, "__path__"):
        yield top
        return
    for found in pkgutil.iter_modules(top.__path__):
        if found.name.startswith("test_"):
            yield importlib.import_module(f"{PACKAGE}.{found.name}")


def load_tests_for(method: str) -> Iterator[unittest.TestCase]:
    """Yield every test of the running interpreter that is about a process pool, for one start method."""
    for module in modules():
        for case in cpython_pool.flatten(unittest.defaultTestLoader.loadTestsFromModule(module)):
            is_resources = type(case).__name__ == "FailingInitializerResourcesTest"  # one test for each method
            if getattr(case, "ctx", None) == method or (is_resources and case.id().endswith(f"_{method}")):
                yield case


def list_them() -> None:
    """Print what there is, as `cpython_pool.list_tests` wants it."""
    answer: dict[str, Any]
    try:
        found = {method: [cpython_pool.short_id(c) for c in load_tests_for(method)] for method in STARTS}
        answer = {"tests": found}
    except (ImportError, unittest.SkipTest) as error:
        answer = {"missing": f"{type(error).__name__}: {error}"}
    sys.stdout.write(json.dumps(answer) + "\n")


STARTS = cpython_pool.START_METHODS


if __name__ == "__main__":
    if os.environ.get("MPSTEAL_DROPIN_EXECUTOR") == "mpsteal:Executor":
        import concurrent.futures

        assert concurrent.futures.ProcessPoolExecutor.__module__ == "sitecustomize"
    cpython_pool.main("executor tests", list_them, load_tests_for)
