"""The interpreter's own Pool tests, run against `mpsteal.Pool`, for every start method.

One item here is one test of the running interpreter and one start method. How they are found and
run, and what the control run is, stands in `cpython_pool.py`.
"""

from __future__ import annotations

import multiprocessing
import re
from typing import Any

import cpython_pool
import pytest

#: Tests that use underscored attributes of the stock class, and what each of them wants. They are
#: run and must pass like all others, since people write the same in their programs; they are
#: listed because a failure here breaks no promise of the documented interface.
PRIVATE = {
    "_TestPool.test_make_pool": "counts the processes in `_pool`",
    "_TestPool.test_resource_warning": "sets `_state` back to RUN, so that deleting the pool warns",
    "_TestPoolWorkerLifetime.test_pool_worker_lifetime": (
        "reads pids in `_pool` and calls `_repopulate_pool` to replace workers at once"
    ),
}

#: Tests left out on purpose: id to reason. Whoever adds a row says why no user can notice.
EXEMPT: dict[str, str] = {
    "WithThreadsTestPool.test_terminate": (
        "the stock ThreadPool, not ours: its threads cannot be ended, so the test waits for five minutes whenever a "
        "task was faster than `terminate` (later versions of the suite say so and sleep for a second)"
    ),
}

#: Pool tests elsewhere in the interpreter's suite that are not selected, and why.
NOT_SELECTED = {
    "test.test_venv": (
        "maps over a Pool inside a virtual environment made on the spot, in which mpsteal is not "
        "installed; that environment is the subject there, the pool is not"
    ),
}


# The first item of a start method waits for its whole batch. The alarm that matters is armed for
# each test inside the batch; this one is for the adapter itself.
pytestmark = pytest.mark.timeout(10 * cpython_pool.ALARM_S)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "cpython_test" not in metafunc.fixturenames:
        return
    known = cpython_pool.list_tests()
    rows = [
        pytest.param(method, test, id=f"{method}-{test}")
        for method, tests in known.get("tests", {}).items()
        for test in tests
    ]
    if "missing" in known:
        why = f"the interpreter's own tests cannot be used here: {known['missing']}"
        rows = [pytest.param("fork", "", marks=pytest.mark.skip(reason=why), id="not-installed")]
    elif "broken" in known:
        rows = [pytest.param("fork", "", id="broken")]
    metafunc.parametrize(("method", "cpython_test"), rows)


class Batches:
    """The batches run so far: one for each start method, over all its collected tests."""

    def __init__(self, items: list[pytest.Item]) -> None:
        self._wanted: dict[str, list[str]] = {method: [] for method in cpython_pool.START_METHODS}
        self._done: dict[str, cpython_pool.Batch] = {}
        for item in items:
            params: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
            if params.get("cpython_test") and params["cpython_test"] not in EXEMPT:
                self._wanted[params["method"]].append(params["cpython_test"])

    def run(self, method: str) -> cpython_pool.Batch:
        """Run the batch, or return what it gave."""
        if method not in multiprocessing.get_all_start_methods():
            pytest.skip(f"this system has no start method {method}")
        known = cpython_pool.list_tests()
        assert "broken" not in known, known["broken"]
        if method not in self._done:
            self._done[method] = cpython_pool.run_batch(method, self._wanted[method])
        return self._done[method]


@pytest.fixture(scope="module")
def batches(request: pytest.FixtureRequest) -> Batches:
    return Batches(request.session.items)


def test_cpython_pool(batches: Batches, method: str, cpython_test: str) -> None:
    if cpython_test in EXEMPT:
        pytest.skip(EXEMPT[cpython_test])
    outcome, detail = batches.run(method).verdicts[cpython_test]
    if outcome == "skipped":
        pytest.skip(f"skipped by the interpreter's own suite: {detail}")
    assert outcome == "passed", detail


@pytest.mark.parametrize("method", cpython_pool.START_METHODS)
def test_suite_finds_nothing_dangling(batches: Batches, method: str) -> None:
    """The suite compares processes and threads around each class; after it, nobody is left."""
    results = batches.run(method)
    assert results.left_behind == []
    assert results.altered == []


def test_table_of_private_users_is_complete() -> None:
    known = cpython_pool.list_tests()
    if "missing" in known:
        pytest.skip(known["missing"])
    assert set(known["pokes"]) <= set(PRIVATE), known["pokes"]


def test_known_pool_tests_are_selected() -> None:
    """The selection is read from the sources, so a few that must be in it are named here."""
    known = cpython_pool.list_tests()
    if "missing" in known:
        pytest.skip(known["missing"])
    for method, tests in known["tests"].items():
        classes = {test.partition(".")[0] for test in tests}
        assert {
            "WithProcessesTestPool",
            "WithProcessesTestPoolWorkerErrors",
            "WithProcessesTestPoolWorkerLifetime",
            "WithManagerTestPool",
            "TestPoolNotLeakOnFailure",
        } <= classes, method
        assert "TestInitializers.test_pool_initializer" in tests
        assert "TestStdinBadfiledescriptor.test_pool_in_process" in tests
        assert "TestSyncManagerTypes.test_pool" in tests
        assert not [test for test in tests if re.search(r"[Ll]ock|Queue|Heap", test)], method
