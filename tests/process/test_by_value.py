"""What plain pickle refuses goes by value where cloudpickle is installed, silently and only then."""

from __future__ import annotations

import functools
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing.pool import MaybeEncodingError
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import fault_tasks as tasks
import pytest
from gates import Gates, pass_gate
from waiting import ALARM_S

import mpsteal
from mpsteal import Agent, Task
from mpsteal._agent import by_value
from mpsteal._agent.serialize import Encoder

cloudpickle = pytest.importorskip("cloudpickle")

Open = Callable[..., mpsteal.Pool]

HINT = r'pip install "mpsteal\[cloudpickle\]"'


@pytest.fixture
def no_cloudpickle(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if it were not installed; forked agents inherit that."""
    monkeypatch.setitem(sys.modules, "cloudpickle", None)


class ByName:
    """Found by its name, in whatever process."""

    def __init__(self, value: Any) -> None:
        self.value = value


def call(function: Callable[..., Any], *args: Any) -> Any:
    return function(*args)


def is_by_name(thing: Any, _: Any) -> bool:
    return isinstance(thing, ByName)


def make_adder(n: int) -> Callable[[int], int]:
    return lambda x: x + n


def raise_local() -> None:
    class LocalError(Exception): ...

    raise LocalError("from inside")


def test_what_pickle_refuses_is_sent_and_comes_back(open_pool: Open, start_method: str) -> None:
    """Functions, their arguments, partials over them, initializers; results that are such themselves."""
    n = 10
    pool = open_pool(1, start_method, initializer=lambda: os.environ.update(BY_VALUE=str(n)))
    assert pool.apply(lambda: os.environ["BY_VALUE"]) == "10"
    assert pool.apply(lambda x, y=1: x + y + n, (1,), {"y": 2}) == 13
    assert pool.map(lambda x: x * n, range(5)) == [0, 10, 20, 30, 40]
    assert list(pool.imap(functools.partial(lambda a, b: a * b * n, 2), range(3))) == [0, 20, 40]
    assert pool.apply(call, (lambda x: x + n, 1)) == 11
    assert pool.apply(make_adder, (5,))(1) == 6


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_classes_that_are_local_come_back_as_they_were(open_pool: Open, method: str) -> None:
    class Point:
        def __init__(self, x: int) -> None:
            self.x = x

    class LocalError(Exception): ...

    def double(point: Point) -> Point:
        return Point(2 * point.x)

    def fail() -> None:
        raise LocalError(7)

    pool = open_pool(1, method)
    found = pool.apply(double, (Point(4),))
    assert type(found) is Point and found.x == 8
    with pytest.raises(LocalError) as caught:
        pool.apply(fail)
    assert caught.value.args == (7,)
    with pytest.raises(Exception, match="from inside") as unknown:
        pool.apply(raise_local)
    assert type(unknown.value).__name__ == "LocalError"


def test_tasks_of_a_scheduler_too(open_scheduler: Callable[..., mpsteal.WorkStealingScheduler]) -> None:
    scheduler = open_scheduler(Agent("one", ["*"]))
    n = 3
    task = scheduler.submit_task(Task("local", fn=lambda x: x + n, args=(1,)))
    assert task.result() == 4
    lock = threading.Lock()
    refused = scheduler.submit_task(Task("locked", fn=lambda: lock))
    with pytest.raises((AttributeError, pickle.PicklingError), match=r"task 'locked'.*<lambda>"):
        refused.result()


def test_what_goes_by_name_stays_so(open_pool: Open) -> None:
    """Beside a copy, classes that agents know are not copied: their own functions would not know the copies."""
    pool = open_pool(1)
    assert pool.apply(is_by_name, (ByName(lambda: 1), None))
    assert pool.apply(is_by_name, (ByName(1), lambda: 1))


def test_reducers_that_users_registered_hold_in_copies(open_pool: Open) -> None:
    class Odd:
        def __reduce__(self) -> Any:
            raise RuntimeError("not by this")

    ForkingPickler.register(Odd, lambda _: (str, ("registered",)))
    try:
        assert open_pool(1).apply(lambda odd: odd, (Odd(),)) == "registered"
    finally:
        del ForkingPickler._extra_reducers[Odd]


def test_single_calls_see_what_has_changed_and_a_map_is_pickled_once(open_pool: Open) -> None:
    pool = open_pool(1)
    n = 1

    def add(x: int) -> int:
        return x + n

    assert pool.apply(add, (1,)) == 2
    n = 5
    assert pool.apply(add, (1,)) == 6
    counted = Counted()
    assert pool.map(counted, range(200), chunksize=1) == list(range(200))
    assert counted.pickled == 2  # plain pickle tries it, then it is copied


class Counted:
    """Counts how often it was pickled, and is no plain object."""

    def __init__(self) -> None:
        self.pickled = 0
        self.function = lambda x: x

    def __reduce__(self) -> Any:
        self.pickled += 1
        return call, (functools.partial, self.function)

    def __call__(self, x: int) -> int:
        return self.function(x)


def test_cloudpickle_is_not_imported_before_the_first_refusal(tmp_path: Path) -> None:
    done = run_python(
        tmp_path,
        "-c",
        "import sys, mpsteal\n"
        "with mpsteal.Pool(1, context='fork') as pool:\n"
        "    is_there = pool.apply(exec, ('import sys; assert \"cloudpickle\" not in sys.modules',)) is not None\n"
        "    assert pool.map(abs, [-1]) == [1] and 'cloudpickle' not in sys.modules\n"
        "    assert pool.apply(lambda: 1) == 1 and 'cloudpickle' in sys.modules\n"
        "print('done')\n",
    )
    assert done == "done\n"


def test_refused_by_both_keeps_the_first_type_and_names_the_reason(open_pool: Open) -> None:
    pool = open_pool(1)
    lock = threading.Lock()
    with pytest.raises((AttributeError, pickle.PicklingError), match=r"<lambda>.*cannot pickle '_thread.lock'"):
        pool.apply(lambda: lock)
    with pytest.raises(TypeError, match=r"cannot pickle '_thread.lock' object -- the call of identity"):
        pool.apply(tasks.identity, (lock,))
    with pytest.raises(RuntimeError, match="its own"):
        pool.apply(call, (lambda: 1, RaisesRuntimeError()))
    assert pool.apply(lambda: 1) == 1


class RaisesRuntimeError:
    def __reduce__(self) -> Any:
        raise RuntimeError("its own")


class TestWithoutTheExtra:
    def test_the_error_names_object_and_extra(self, open_pool: Open, no_cloudpickle: None) -> None:
        pool = open_pool(1)
        refusal = (AttributeError, pickle.PicklingError)  # which of them depends on the version

        def local() -> None: ...

        with pytest.raises(refusal, match=rf"local.*submitted at .*test_by_value.*{HINT}"):
            pool.apply(local)
        with pytest.raises(refusal, match=rf"local.*the call of call .*{HINT}"):
            pool.apply(call, (local,))
        with pytest.raises(refusal, match=rf"local.*{HINT}"):
            pool.map(local, [1, 2])
        with pytest.raises(MaybeEncodingError, match=rf"make_adder.*{HINT}"):
            pool.apply(make_adder, (1,))

    def test_what_a_copy_would_not_cure_does_not_name_it(self, open_pool: Open, no_cloudpickle: None) -> None:
        with pytest.raises(TypeError, match=r"_thread\.lock") as caught:
            open_pool(1).apply(tasks.identity, (threading.Lock(),))
        assert "cloudpickle" not in str(caught.value)

    def test_an_initializer_that_cannot_be_sent_is_refused_at_once(self, open_pool: Open, no_cloudpickle: None) -> None:
        with pytest.raises((AttributeError, pickle.PicklingError), match="<lambda>"):
            open_pool(1, "spawn", initializer=lambda: None)


class TestEncoder:
    def test_a_copy_leaves_no_trace_in_the_next_object(self) -> None:
        encoder = Encoder()
        good = encoder.dumps([1, 2])
        assert pickle.loads(encoder.dumps(["x" * 100, make_adder(1)]))[1](1) == 2
        assert encoder.dumps([1, 2]) == good

    def test_only_plain_makes_no_copy(self) -> None:
        with pytest.raises(by_value.REFUSALS):
            Encoder().dumps(make_adder(1), only_plain=True)

    def test_main_by_value_refuses_what_has_its_name_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        encoder = Encoder(by_value.MainByValue)
        assert pickle.loads(encoder.dumps((call, [ByName]), only_plain=True)) == (call, [ByName])
        monkeypatch.setattr(ByName, "__module__", "__main__")
        for thing in (ByName, ByName(1), [{"a": ByName}]):
            with pytest.raises(pickle.PicklingError, match="ByName"):
                encoder.dumps(thing, only_plain=True)


# -- prompts and notebooks ------------------------------------------------------------------------------------------

SESSION = """\
import mpsteal, multiprocessing, sys
pool = mpsteal.Pool(2, context={method!r})
_ = pool.map(abs, range(4))
N = 1
def f(x):
    return x + N

class P:
    def __init__(self, v):
        self.v = v

def g(p):
    return P(p.v * 2)

print(pool.map(f, range(3)), pool.apply(f, (5,)))
N = 2
print(pool.map(f, range(3)), pool.apply(f, (5,)))
def f(x):
    return x * 100

print(pool.map(f, range(3)), pool.apply(f, (5,)))
print(type(pool.apply(g, (P(4),))) is P, pool.apply(g, (P(4),)).v)
pool.terminate()
"""
"""What a person types: functions come after the pool, change what they use, are defined again."""

ANSWERS = "[1, 2, 3] 6\n[2, 3, 4] 7\n[0, 100, 200] 500\nTrue 8\n"


def run_python(directory: Path, *arguments: str, stdin: str | None = None) -> str:
    """What an interpreter prints that is fed like this."""
    paths = [str(Path(mpsteal.__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[1])]
    done = subprocess.run(
        [sys.executable, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=ALARM_S,
        cwd=directory,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Error" not in done.stderr, done.stderr
    return done.stdout


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_functions_of_a_prompt_are_those_of_now(method: str, tmp_path: Path) -> None:
    assert run_python(tmp_path, "-q", "-i", stdin=SESSION.format(method=method)) == ANSWERS


def test_functions_of_a_program_without_a_file(tmp_path: Path) -> None:
    assert run_python(tmp_path, "-c", SESSION.format(method="spawn")) == ANSWERS


def test_functions_of_a_notebook(tmp_path: Path) -> None:
    """Its `__main__` is a module without a file, whose cells are compiled one by one and known to `linecache`."""
    kernel = (
        "import linecache, sys, types\n"
        "main = sys.modules['__main__'] = types.ModuleType('__main__')\n"
        f"cells = {SESSION.format(method='spawn')!r}.split('\\n\\n')\n"
        "for i, cell in enumerate(cells):\n"
        "    name = f'<ipython-input-{i}>'\n"
        "    linecache.cache[name] = (len(cell), None, cell.splitlines(True), name)\n"
        "    exec(compile(cell, name, 'exec'), main.__dict__)\n"
    )
    (tmp_path / "kernel.py").write_text(kernel)
    assert run_python(tmp_path, "kernel.py") == ANSWERS


def test_a_prompt_without_the_extra_says_what_to_install(tmp_path: Path) -> None:
    """Forks have what there was as they started, and miss the rest; others find nothing of it."""
    source = (
        "import sys; sys.modules['cloudpickle'] = None\n"
        "import mpsteal\n"
        "def early(x): return x + 1\n"
        "with mpsteal.Pool(1, context='fork') as pool:\n"
        "    def late(x): return x\n"
        "    print(pool.apply(early, (1,)))\n"
        "    for call in (lambda: pool.apply(late, (1,)), lambda: pool.map(abs, [late])):\n"
        "        try: call()\n"
        "        except AttributeError as error: print(error)\n"
        "with mpsteal.Pool(1, context='spawn') as pool:\n"
        "    try: pool.apply(early, (1,))\n"
        "    except Exception as error: print(type(error).__name__, error)\n"
    )
    first, *told, refused = run_python(tmp_path, "-c", source).splitlines()
    assert first == "2" and len(told) == 2
    assert all("'late'" in line and by_value.HINT in line for line in told)
    assert refused.startswith("PicklingError") and "early" in refused and by_value.HINT in refused


def test_a_name_that_agents_do_not_find_is_explained(tmp_path: Path) -> None:
    """Defined below the guard, so that agents which import the main module have no such name."""
    (tmp_path / "program.py").write_text(
        "import mpsteal\n"
        "if __name__ == '__main__':\n"
        "    def f(x): return x\n"
        "    with mpsteal.Pool(1, context='spawn') as pool:\n"
        "        try: pool.apply(f, (1,))\n"
        "        except AttributeError as error: print(error)\n"
    )
    assert "run nothing below `if __name__ == '__main__'`" in run_python(tmp_path, "program.py")


def test_a_script_keeps_its_classes_by_name(tmp_path: Path) -> None:
    """A lambda beside an object of the main module does not have that one's class copied."""
    (tmp_path / "program.py").write_text(
        "import mpsteal\n"
        "class C: pass\n"
        "def knows(c, _): return isinstance(c, C)\n"
        "if __name__ == '__main__':\n"
        "    for method in ('fork', 'spawn'):\n"
        "        with mpsteal.Pool(1, context=method) as pool:\n"
        "            print(pool.apply(knows, (C(), lambda: 1)), type(pool.apply(lambda: C())) is C)\n"
    )
    assert run_python(tmp_path, "program.py") == "True True\n" * 2


def test_large_arrays_in_copies_travel_as_elsewhere(open_pool: Open) -> None:
    numpy = pytest.importorskip("numpy")
    pool = open_pool(2)
    array = numpy.arange(1 << 17)

    class Box:
        def __init__(self, array: Any) -> None:
            self.array = array

    assert pool.apply(lambda: int(array.sum())) == array.sum()
    assert pool.map(lambda x: int((array * x).sum()), range(3)) == [array.sum() * x for x in range(3)]
    assert (pool.apply(lambda box: Box(2 * box.array), (Box(array),)).array == 2 * array).all()


def test_cancel_and_death_take_copies_like_any_call(open_pool: Open, gates: Gates) -> None:
    pool = open_pool(1)
    gate = gates("held")
    held = pool.apply_async(pass_gate, (gate, 1))
    gate.wait_arrived()
    waiting = pool.apply_async(lambda: 1)
    assert waiting.cancel()
    gate.open()
    assert held.get() == 1
    with pytest.raises(mpsteal.AgentDiedError, match="callable"):
        pool.apply(lambda: os._exit(3))
    assert pool.apply(lambda: 2) == 2
