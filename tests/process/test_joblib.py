"""mpsteal as joblib's backend: what `Parallel` and scikit-learn get from it, and what is kept between calls."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fault_tasks as tasks
import psutil
import pytest
from gates import Gates, pass_gate
from waiting import program, wait_gone, wait_until

import mpsteal

joblib = pytest.importorskip("joblib")


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    mpsteal.register_joblib()
    yield
    mpsteal.shutdown_joblib()


def parallel(n_jobs: int = 2, context: str | None = "fork", **options: Any) -> Any:
    """By forks, unless the test is about how agents start: those are there at once."""
    from mpsteal._joblib_backend import MpstealBackend

    return joblib.Parallel(n_jobs=n_jobs, backend=MpstealBackend(context=context), **options)


def run(*calls: Any, **options: Any) -> list[Any]:
    return list(parallel(**options)(joblib.delayed(function)(*args) for function, *args in calls))


def pids() -> set[int]:
    """Of the agents that are kept."""
    from mpsteal import _joblib_backend

    return {process.pid for kept in _joblib_backend._all for process in kept.pool._pool}


def test_results_are_in_order_and_lambdas_travel() -> None:
    base = 3
    calls = [(lambda x: x + base, i) for i in range(500)]
    assert run(*calls, context=None) == list(range(3, 503))
    assert os.getpid() not in run((tasks.my_pid,), (tasks.my_pid,), context=None)


def test_results_and_errors_of_classes_without_a_name_come_back() -> None:
    class Own(Exception):
        pass

    def make(value: int) -> Any:
        return Own(value)

    def fail() -> None:
        raise Own("of this test")

    (made,) = run((make, 5))
    assert type(made) is Own and made.args == (5,)
    with pytest.raises(Own, match="of this test") as caught:
        run((fail,), (fail,))
    assert "in fail" in str(caught.value.__cause__)


def test_script_needs_no_main_guard(tmp_path: Path) -> None:
    """Functions and classes of `__main__` go by value, and the script does not run again in the agents."""
    root = Path(mpsteal.__file__).resolve().parents[1]
    source = f"""
import sys
sys.path.insert(0, {str(root)!r})
import joblib, mpsteal
print("started")
mpsteal.register_joblib()

class Point:
    def __init__(self, x):
        self.x = x

def double(point):
    return Point(2 * point.x)

with joblib.parallel_config(backend="mpsteal", n_jobs=2):
    points = joblib.Parallel()(joblib.delayed(double)(Point(i)) for i in range(20))
assert all(type(point) is Point for point in points)
print([point.x for point in points] == list(range(0, 40, 2)))
"""
    with program(tmp_path, source) as script:
        assert script.wait() == 0, script.errors
        assert script.output.splitlines() == ["started", "True"]
        script.check_nothing_left()
        assert not script.errors


def test_agents_are_kept_for_the_next_call_and_end_when_idle() -> None:
    first = set(run(*[(tasks.my_pid,)] * 20))
    kept = pids()
    assert first <= kept and len(kept) == 2
    assert set(run(*[(tasks.my_pid,)] * 20)) <= kept
    run((tasks.my_pid,), n_jobs=3)
    assert len(pids()) == 3 and not pids() & kept, "another size, and the idle ones have ended"
    wait_gone(kept)
    three = pids()
    run((tasks.my_pid,), n_jobs=3, idle_worker_timeout=0.01)
    wait_gone(three)
    assert not pids()
    assert run((tasks.double, 4)) == [8]
    last = pids()
    mpsteal.shutdown_joblib()
    wait_gone(last)


def test_failure_ends_what_runs_and_keeps_the_rest(gates: Gates) -> None:
    """The pool lives on: one agent is replaced, the one that gave the error is not."""
    endless = gates("endless")
    run((tasks.my_pid,))
    before = pids()

    def wait_and_fail(gate: Any) -> None:
        os.getppid()
        import time

        while not os.path.exists(gate):
            time.sleep(0.001)
        raise LookupError("enough")

    flag = endless._path + ".flag"
    threading.Thread(target=lambda: (endless.wait_arrived(), Path(flag).touch()), daemon=True).start()
    with pytest.raises(LookupError, match="enough"):
        run((tasks.arrive_and_sleep, endless), (wait_and_fail, flag))
    assert run(*[(tasks.double, i) for i in range(20)]) == list(range(0, 40, 2))
    wait_until(lambda: len(pids() & before) == 1 and len(pids()) == 2, "one agent was replaced")


def test_dead_agent_costs_its_batch_and_says_so() -> None:
    with pytest.raises(mpsteal.AgentDiedError):
        run((tasks.double, 1), (tasks.die_by, signal.SIGKILL))
    assert run((tasks.double, 1)) == [2]


def test_time_limit_of_parallel(gates: Gates) -> None:
    with pytest.raises((TimeoutError, multiprocessing.TimeoutError)):
        run((tasks.arrive_and_sleep, gates("endless")), (tasks.double, 1), timeout=0.05)
    assert run((tasks.double, 1)) == [2]


@pytest.mark.parametrize("return_as", ["generator", "generator_unordered"])
def test_generators(return_as: str) -> None:
    results = parallel(return_as=return_as)(joblib.delayed(tasks.double)(i) for i in range(100))
    assert sorted(results) == list(range(0, 200, 2))
    endless = parallel(return_as=return_as)(joblib.delayed(tasks.double)(i) for i in iter(int, 1))
    assert next(endless) == 0
    with pytest.warns(UserWarning, match="cancelled"):
        endless.close()
    assert run((tasks.double, 1)) == [2]


def test_error_of_the_input_is_raised() -> None:
    def calls() -> Iterator[Any]:
        for i in range(30):
            yield joblib.delayed(tasks.double)(i)
        raise LookupError("input")

    with pytest.raises(LookupError, match="input"):
        parallel()(calls())


def test_what_cannot_be_pickled_is_the_callers_error() -> None:
    for at in (0, 50):
        calls: list[Any] = [(tasks.double, i) for i in range(100)]
        calls[at] = (tasks.identity, tasks.NotForTravel())
        with pytest.raises(TypeError, match="stays at home"):
            run(*calls)
    with pytest.raises(Exception, match="stays at home"):
        run((tasks.make_not_for_travel,), (tasks.double, 1))


def inner(n_jobs: int, backend: str | None) -> list[Any]:
    with joblib.Parallel(n_jobs=n_jobs, backend=backend) as made:
        return [type(made._backend).__name__, made(joblib.delayed(tasks.double)(i) for i in range(4))]


def test_nested_parallel_follows_joblibs_rules() -> None:
    before = set(psutil.Process().children(recursive=True))
    assert run((inner, 2, None), (inner, 2, "mpsteal"), (inner, 1, None)) == [
        ["ThreadingBackend", [0, 2, 4, 6]],
        ["MpstealBackend", [0, 2, 4, 6]],
        ["SequentialBackend", [0, 2, 4, 6]],
    ]
    children = set(psutil.Process().children(recursive=True)) - before
    family = [child.pid for child in children if "_tracker" not in " ".join(child.cmdline())]
    assert len(family) > 2, "agents have agents of their own, which they keep"
    mpsteal.shutdown_joblib()
    wait_gone(family)


def test_n_jobs_means_what_joblib_says() -> None:
    with joblib.parallel_config(backend="mpsteal"):
        assert joblib.effective_n_jobs(None) == 1
        assert joblib.effective_n_jobs(-1) == joblib.cpu_count()
        assert joblib.effective_n_jobs(-1000) == 1
        assert joblib.effective_n_jobs(3) == 3
        with pytest.raises(ValueError, match="no meaning"):
            joblib.effective_n_jobs(0)


def threads_of(name: str) -> str | None:
    return os.environ.get(name)


def blas_threads() -> list[int]:
    import numpy as np
    from threadpoolctl import threadpool_info

    np.ones((2, 2)) @ np.ones((2, 2))
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


def test_inner_threads_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with joblib.parallel_config(backend="mpsteal", n_jobs=2, inner_max_num_threads=3):
        assert joblib.Parallel()([joblib.delayed(threads_of)("OMP_NUM_THREADS")] * 2) == ["3", "3"]
    cpus = joblib.cpu_count()
    assert run((threads_of, "OMP_NUM_THREADS"), (threads_of, "MKL_NUM_THREADS")) == [str(max(1, cpus // 2))] * 2
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert run((threads_of, "OMP_NUM_THREADS")) == ["7"]


@pytest.mark.parametrize("context", [None, "fork"])
def test_blas_obeys(context: str | None) -> None:
    pytest.importorskip("threadpoolctl")
    pytest.importorskip("numpy")
    blas_threads()  # here it is loaded, and a fork takes it along
    with joblib.parallel_config(backend="mpsteal", n_jobs=2, inner_max_num_threads=1, context=context):
        got = joblib.Parallel()(joblib.delayed(blas_threads)() for _ in range(2))
    assert all(set(threads) <= {1} for threads in got)


def test_arrays_go_both_ways() -> None:
    np = pytest.importorskip("numpy")
    made = np.arange(1 << 20, dtype=np.float64).reshape(1024, -1)
    (doubled,) = run((np.multiply, made, 2))
    assert np.array_equal(doubled, 2 * made)
    doubled[0, 0] = 1.0  # ours to write to

    def write(array: Any) -> float:
        array[0, 0] = 5.0
        return float(array[0, 0])

    assert run((write, made)) == [5.0]
    assert made[0, 0] == 0.0


def test_initializer_is_called_in_each_agent() -> None:
    def begin(value: str) -> None:
        os.environ["MPSTEAL_TEST_BEGUN"] = value

    with joblib.parallel_config(backend="mpsteal", n_jobs=2, initializer=begin, initargs=("yes",)):
        assert set(joblib.Parallel()([joblib.delayed(threads_of)("MPSTEAL_TEST_BEGUN")] * 4)) == {"yes"}


def test_memory_is_used_inside_of_tasks(tmp_path: Path) -> None:
    noted = str(tmp_path / "noted")
    cached = joblib.Memory(tmp_path / "cache", verbose=0).cache(tasks.note)
    assert run(*[(cached, noted, 1)] * 2, pre_dispatch=1) == [1, 1]
    assert run((cached, noted, 1)) == [1]
    assert Path(noted).read_text() == "1\n"


def test_short_tasks_share_batches_and_long_ones_have_their_own(gates: Gates) -> None:
    quick = parallel()
    quick(joblib.delayed(abs)(i) for i in range(5000))
    assert quick.n_dispatched_batches < 500
    long = parallel()
    long(joblib.delayed(tasks.spin_for)(0.01) for _ in range(20))
    assert long.n_dispatched_batches == 20


def test_many_parallels_share_the_pool() -> None:
    """In threads at once: each gets its own results, and one that fails does not end the others' tasks."""
    outcomes: list[Any] = []

    def one(number: int) -> None:
        calls = [(tasks.double, 1000 * number + i) for i in range(200)]
        if number == 1:
            calls[100] = (tasks.raise_this, LookupError)
        try:
            outcomes.append(run(*calls) == [2 * x for _, x in calls])
        except LookupError:
            outcomes.append(None)

    threads = [threading.Thread(target=one, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, outcomes)) == ["None", "True", "True", "True"]
    wait_until(lambda: len(pids()) == 2, "both agents")


def test_without_joblib_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "joblib", None)
    with pytest.raises(ImportError, match=r"mpsteal\[joblib\]"):
        mpsteal.register_joblib()


def test_fork_keeps_nothing_of_the_parents(gates: Gates) -> None:
    run((tasks.double, 1))
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write, repr((pids(), run((tasks.double, 2)))).encode())
            mpsteal.shutdown_joblib()
        finally:
            os._exit(0)
    os.close(write)
    assert os.waitpid(pid, 0)[1] == 0
    assert os.read(read, 1000) == b"(set(), [4])"
    os.close(read)
    assert run((tasks.double, 1)) == [2]


def test_queued_batches_are_withdrawn(gates: Gates) -> None:
    """A generator that is given up: what has not started never does."""
    gate = gates("held")
    results = parallel(return_as="generator", pre_dispatch="all")(joblib.delayed(pass_gate)(gate, i) for i in range(50))
    gate.wait_arrived(2)
    with pytest.warns(UserWarning, match="cancelled"):
        results.close()
    assert run((tasks.double, 1)) == [2]
    assert gate.arrived_nowait() == 0


# -- scikit-learn ---------------------------------------------------------------------------------------------------


SCORES = """
import sys
import joblib, mpsteal
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import GridSearchCV

if __name__ == "__main__":
    mpsteal.register_joblib()
    X, y = load_iris(return_X_y=True)
    got = {}
    for backend in sys.argv[1:]:
        options = {"context": "fork"} if backend == "fork" else {}
        with joblib.parallel_config(backend="mpsteal" if options else backend, n_jobs=2, **options):
            search = GridSearchCV(RandomForestClassifier(4, random_state=0), {"max_depth": [1, 3]}, cv=3).fit(X, y)
            forest = RandomForestClassifier(8, random_state=1).fit(X, y)
            scores = list(search.cv_results_["mean_test_score"]), search.best_params_, search.score(X, y)
            got[backend] = *scores, forest.score(X, y), forest.predict_proba(X).tolist()
    assert len(got) == len(sys.argv) - 1 and all(scores == got["threading"] for scores in got.values())
    print("the same")
"""


@pytest.mark.parametrize(
    "backends",
    [
        pytest.param(["fork", "threading"], id="forked"),
        pytest.param(["mpsteal", "loky", "threading"], id="spawned, and loky", marks=pytest.mark.stress),
    ],
)
def test_scikit_learn_gives_the_same_scores(tmp_path: Path, backends: list[str]) -> None:
    """In a program of its own, since loky keeps helpers. Spawned, each process has to import scikit-learn."""
    pytest.importorskip("sklearn")
    (tmp_path / "scores.py").write_text(SCORES)
    root = str(Path(mpsteal.__file__).resolve().parents[1])
    done = subprocess.run(
        [sys.executable, str(tmp_path / "scores.py"), *backends],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.stdout == "the same\n", done.stderr
