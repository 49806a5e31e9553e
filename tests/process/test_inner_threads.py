"""Libraries in agents get their share of the CPUs, by the environment, and by threadpoolctl where they are loaded."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from waiting import ALARM_S

import mpsteal
from mpsteal import Agent, Task
from mpsteal._agent.inner_threads import VARIABLES, variables
from mpsteal._agent.surroundings import Name
from mpsteal._engine import surroundings

Open = Callable[..., mpsteal.Pool]
OpenScheduler = Callable[..., mpsteal.WorkStealingScheduler]


def environment() -> dict[str, str]:
    return {name: os.environ[name] for name in VARIABLES if name in os.environ}


def everywhere(count: int) -> dict[str, str]:
    return dict.fromkeys(VARIABLES, str(count))


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the user has set none of the variables, on a machine of eight CPUs."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(surroundings, "allowed_cpus", lambda: 8)
    monkeypatch.setattr(surroundings, "usable_cpus", lambda: 8)


def test_each_agent_gets_its_share(open_pool: Open, start_method: str) -> None:
    pool = open_pool(3, start_method)
    before = dict(os.environ)
    assert pool.apply(environment) == everywhere(2)
    assert dict(os.environ) == before
    assert [process.name for process in pool._pool] == ["mpsteal-0", "mpsteal-1", "mpsteal-2"]
    assert all(type(process.name) is str for process in pool._pool)


def test_more_agents_than_cpus_get_one_thread_each(open_pool: Open) -> None:
    assert open_pool(9).apply(environment) == everywhere(1)


def test_what_the_user_has_set_stays_unless_he_asks(open_pool: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    expected = {**everywhere(4), "OMP_NUM_THREADS": "5"}
    assert open_pool(2, "fork").apply(environment) == expected
    assert open_pool(2, "forkserver").apply(environment) == expected  # whose server was there before
    assert open_pool(2, inner_threads=3).apply(environment) == everywhere(3)


def test_none_leaves_the_environment_alone(open_pool: Open) -> None:
    assert open_pool(2, inner_threads=None).apply(environment) == {}


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "many", True])
def test_anything_else_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="inner_threads"):
        mpsteal.Pool(1, inner_threads=wrong)


def test_a_scheduler_counts_the_agents_it_starts_with(open_scheduler: OpenScheduler) -> None:
    scheduler = mpsteal.WorkStealingScheduler()
    for name in ("a", "b", "c", "d"):
        scheduler.register_agent(Agent(name, [name]))
    with scheduler:
        tasks = [scheduler.submit_task(Task("t", [name], fn=environment)) for name in ("a", "d")]
        assert [task.result() for task in tasks] == [everywhere(2)] * 2
    alone = open_scheduler(Agent("one", ["x"]))
    assert alone.submit_task(Task("t", fn=environment)).result() == everywhere(8)
    asked = open_scheduler(Agent("one", ["x"]), agents__inner_threads=3)
    assert asked.submit_task(Task("t", fn=environment)).result() == everywhere(3)
    free = open_scheduler(Agent("one", ["x"]), agents__inner_threads=-1)
    assert free.submit_task(Task("t", fn=environment)).result() == {}


def test_variables() -> None:
    assert variables(None, {}, override=True) == {}
    assert variables(2, {"OMP_NUM_THREADS": "7"}, override=False)["OMP_NUM_THREADS"] == "7"
    assert variables(2, {"OMP_NUM_THREADS": "7"}, override=True)["OMP_NUM_THREADS"] == "2"


def test_a_name_takes_its_environment_only_to_a_process_that_starts() -> None:
    """Else who pickles a process's name somewhere would set variables there."""
    name = Name("mpsteal-0", {"OMP_NUM_THREADS": "1"})
    copy = pickle.loads(pickle.dumps(name))
    assert (type(copy), copy) == (str, "mpsteal-0")
    assert "OMP_NUM_THREADS" not in os.environ


PROGRAM = """\
import os, sys
EARLY = os.environ.get("OMP_NUM_THREADS")  # what a library would find that is imported here
import mpsteal, numpy
def look():
    import threadpoolctl
    return EARLY, [library["num_threads"] for library in threadpoolctl.threadpool_info()]
if __name__ == "__main__":
    for method in sys.argv[2:]:
        with mpsteal.Pool(2, context=method, inner_threads=int(sys.argv[1])) as pool:
            early, found = pool.apply(look)
            print(method, early if method != "forkserver" else "", set(found) <= {int(sys.argv[1])})
"""


def test_libraries_use_no_more_wherever_they_were_loaded(tmp_path: Path) -> None:
    """The main module imports numpy: in the parent (fork), in the agent (spawn), and under forkserver, by version, in
    the server or in the agent."""
    pytest.importorskip("numpy")
    pytest.importorskip("threadpoolctl")
    (tmp_path / "program.py").write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "program.py"), "1", "fork", "forkserver", "spawn"],
        capture_output=True,
        text=True,
        timeout=ALARM_S,
        env={**os.environ, "PYTHONPATH": str(Path(mpsteal.__file__).resolve().parents[1])},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "fork None True\nforkserver  True\nspawn 1 True\n"


def write_environment(path: str) -> None:
    Path(path).write_text(repr(environment()))


def test_who_runs_no_task_has_it_for_its_finalizer(open_pool: Open, start_method: str, tmp_path: Path) -> None:
    """Agents are given it no sooner than anything of the user's runs there."""
    path = tmp_path / "seen"
    pool = open_pool(1, start_method, finalizer=write_environment, finalargs=(str(path),))
    pool.close()
    pool.join()
    assert path.read_text() == repr(everywhere(8))


def test_the_initializer_sees_it(open_pool: Open, start_method: str, tmp_path: Path) -> None:
    path = tmp_path / "seen"
    pool = open_pool(1, start_method, initializer=write_environment, initargs=(str(path),))
    assert pool.apply(environment) == everywhere(8)
    assert path.read_text() == repr(everywhere(8))


def test_what_agents_are_given_reaches_programs_that_tasks_start(open_pool: Open) -> None:
    told = open_pool(1, "fork").apply(subprocess.check_output, (["env"],)).decode()
    assert {line for line in told.splitlines() if line.partition("=")[0] in VARIABLES} == {
        f"{name}={value}" for name, value in everywhere(8).items()
    }
