"""`mpsteal run` against plain python: the same program, the same output, the same end.

Each program is written to a directory and run twice; only what it prints about the pool's class may
differ. Programs print nothing that names a process or a path of the pool.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

from mpsteal import patch

PYTHON = [sys.executable]
MPSTEAL = [sys.executable, "-m", "mpsteal", "run"]
ALARM_S = 100

PRINT_MAIN = """
import re, sys
for name, value in sorted(globals().copy().items()):
    print(name, re.sub("0x[0-9a-f]+", "0x", repr(value)))
print(type(__loader__).__name__, getattr(__loader__, "name", None))
print(sys.modules["__main__"].__dict__ is globals())
print(sys.argv, sys.path[0])
"""


class Ended(NamedTuple):
    """How a program ended and what it wrote."""

    status: int
    out: str
    err: str


def run(command: list[str], cwd: Path) -> Ended:
    done = subprocess.run(
        command,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=ALARM_S,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def run_both(cwd: Path, *arguments: str) -> Ended:
    """Run under plain python and under mpsteal, assert the same end and output, and return it."""
    plain = run([*PYTHON, *arguments], cwd)
    ours = run([*MPSTEAL, *arguments], cwd)
    assert (ours.status, ours.out) == (plain.status, plain.out), ours.err
    assert ours.err == without_leaks_of_stock(without_runpy(plain.err))
    return ours


def without_runpy(stderr: str) -> str:
    """Plain -m shows the frames of runpy on top of the program's own; ours shows only those."""
    return re.sub(r'  File "(<frozen runpy>|.*/runpy\.py)".*\n(    .*\n)*', "", stderr)


def without_leaks_of_stock(stderr: str) -> str:
    """A stock pool in a manager leaves a semaphore behind at times (seen with forkserver), and its tracker says so."""
    return re.sub(r"\S+resource_tracker\.py:\d+: UserWarning: resource_tracker: .*\n(  .*\n)?", "", stderr)


def write(path: Path, source: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(source))
    return path


# What a program sees of itself.


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["prog.py"], id="script"),
        pytest.param(["./prog.py", "-m", "--b", "--", "-h"], id="arguments that look like ours"),
        pytest.param(["link.py"], id="symbolic link: sys.path[0] is where it points"),
        pytest.param(["pkg"], id="directory"),
        pytest.param(["prog.zip", "x"], id="zip"),
        pytest.param(["-m", "pkg", "-m", "x"], id="package"),
        pytest.param(["-m", "pkg.mod", "--version"], id="module in a package"),
        pytest.param(["-m", "prog"], id="top-level module"),
    ],
)
def test_program_sees_the_main_module_of_plain_python(tmp_path, arguments):
    for name in ("prog.py", "pkg/__init__.py", "pkg/__main__.py", "pkg/mod.py"):
        write(tmp_path / name, "" if name.endswith("__init__.py") else PRINT_MAIN)
    (tmp_path / "link.py").symlink_to("pkg/mod.py")
    with zipfile.ZipFile(tmp_path / "prog.zip", "w") as archive:
        archive.writestr("__main__.py", PRINT_MAIN)
    ended = run_both(tmp_path, *arguments)
    assert ended.status == 0
    assert "__name__ '__main__'" in ended.out


def test_program_in_latin_1_with_a_coding_cookie(tmp_path):
    source = "# -*- coding: latin-1 -*-\nprint(ascii('\xe4\xf6'))\n"
    (tmp_path / "prog.py").write_bytes(source.encode("latin-1"))
    assert run_both(tmp_path, "prog.py").out == "'\\xe4\\xf6'\n"


def test_program_with_a_byte_order_mark(tmp_path):
    (tmp_path / "prog.py").write_bytes(b"\xef\xbb\xbfprint('bom')\n")
    assert run_both(tmp_path, "prog.py").out == "bom\n"


def test_compiled_program(tmp_path):
    source = write(tmp_path / "prog.py", "print(__file__)")
    compile_it = "import py_compile; py_compile.compile('prog.py', 'prog.pyc')"
    assert run([*PYTHON, "-c", compile_it], tmp_path).status == 0
    source.unlink()
    assert run_both(tmp_path, "prog.pyc").out.endswith("prog.pyc\n")


def test_options_of_a_future_statement_do_not_reach_the_program(tmp_path):
    write(tmp_path / "prog.py", "def f(x: no_such_name): pass\n")
    assert "NameError" in run_both(tmp_path, "prog.py").err


def test_module_beside_the_program_hides_the_library_one(tmp_path):
    write(tmp_path / "statistics.py", "NAME = 'ours'\n")
    write(tmp_path / "prog.py", "import statistics; print(statistics.NAME)\n")
    assert run_both(tmp_path, "prog.py").out == "ours\n"


# How a program ends.


@pytest.mark.parametrize(
    ("statement", "status"),
    [
        ("pass", 0),
        ("sys.exit()", 0),
        ("sys.exit(7)", 7),
        ("sys.exit('in words')", 1),
        ("raise SystemExit(3)", 3),
        ("os._exit(9)", 9),
        ("os.abort()", -signal.SIGABRT),
        ("raise KeyboardInterrupt", -signal.SIGINT),
        ("1 / 0", 1),
        ("def f(): f2()\ndef f2(): raise KeyError('k') from ValueError('v')\nf()", 1),
        ("import no_such_module", 1),
        ("compile('x y', 'inner', 'exec')", 1),
        ("sys.excepthook = lambda *a: print(a[0], a[1].args)\n1 / 0", 1),
        ("import atexit; atexit.register(print, 'last'); raise OSError", 1),
    ],
)
@pytest.mark.parametrize("arguments", [["prog.py"], ["-m", "prog"]], ids=["script", "module"])
def test_program_ends_as_under_plain_python(tmp_path, arguments, statement, status):
    write(tmp_path / "prog.py", f"import os, sys\n{statement}\n")
    ended = run_both(tmp_path, *arguments)
    assert ended.status == status
    assert "mpsteal" not in ended.err


def test_program_with_a_syntax_error(tmp_path):
    write(tmp_path / "prog.py", "print(1)\nx y\n")
    ended = run_both(tmp_path, "prog.py")
    assert ended.status == 1
    assert "SyntaxError" in ended.err


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["missing.py"], 2),
        (["-m", "missing"], 1),
        (["-m", "json"], 1),
        (["-m", "json.missing"], 1),
        (["-m", "missing.mod"], 1),
        (["-m", "os.path.x"], 1),
        (["-m", ".relative"], 1),
        (["empty"], 1),
    ],
)
def test_missing_program_is_reported_as_plain_python_does(tmp_path, arguments, status):
    (tmp_path / "empty").mkdir()
    assert run_both(tmp_path, *arguments).status == status


def test_parent_package_that_fails_shows_its_own_traceback(tmp_path):
    write(tmp_path / "pkg/__init__.py", "raise ImportError('from inside')\n")
    write(tmp_path / "pkg/mod.py", "")
    assert "from inside" in run_both(tmp_path, "-m", "pkg.mod").err


def test_run_without_a_program_is_a_usage_error(tmp_path):
    ended = run(MPSTEAL, tmp_path)
    assert ended.status == 2
    assert "script" in ended.err


def test_version_is_printed_without_starting_anything(tmp_path):
    code = """
    import sys
    from mpsteal.cli import main
    try:
        main(["--version"])
    finally:
        print(sorted({"mpsteal.patch", "yaml", "psutil"} & set(sys.modules)))
    """
    ended = run([*PYTHON, "-c", textwrap.dedent(code)], tmp_path)
    assert re.fullmatch(r"mpsteal \d+\.\d+\.\d+\n\[\]\n", ended.out), ended


# Pools.

POOL_PROGRAM = """
import multiprocessing, sys
from multiprocessing import Pool

def square(x):
    return x * x

def fail(x):
    raise LookupError(x)

class Point:
    def __init__(self, x): self.x = x
    def __eq__(self, other): return self.x == other.x
    def move(self, by): return Point(self.x + by)

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    with Pool(2) as pool:
        print(pool.map(square, range(10)))
        print(sorted(pool.imap_unordered(square, range(10))))
        print(pool.apply_async(Point(1).move, (2,)).get() == Point(3))
        try:
            pool.apply(fail, ("here",))
        except LookupError as error:
            print(repr(error), "in fail" in str(error.__cause__))
        pool.close()
        pool.join()
"""


@pytest.mark.parametrize("arguments", [["prog.py"], ["-m", "pkg.prog"]], ids=["script", "module"])
def test_pool_program_prints_what_it_prints_on_the_stock_pool(tmp_path, start_method, arguments):
    for name in ("prog.py", "pkg/prog.py"):
        write(tmp_path / name, POOL_PROGRAM)
    ended = run_both(tmp_path, *arguments, start_method)
    assert ended.status == 0, ended.err
    assert ended.out.endswith("LookupError('here') True\n")


def test_every_door_of_the_stock_pool_leads_to_ours(tmp_path):
    program = """
    import multiprocessing, multiprocessing.context, multiprocessing.pool
    from multiprocessing import Pool
    from multiprocessing.pool import Pool as PoolClass

    if __name__ == "__main__":
        methods = multiprocessing.get_all_start_methods()
        contexts = [multiprocessing.get_context(m) for m in methods]
        makers = [Pool, PoolClass, multiprocessing.Pool, multiprocessing.pool.Pool,
                  *(context.Pool for context in contexts)]
        for make in makers:
            with make(1) as pool:
                print(isinstance(pool, PoolClass), type(pool).__module__.partition(".")[0])
                pool.close()
                pool.join()
    """
    write(tmp_path / "prog.py", program)
    ended = run([*MPSTEAL, "prog.py"], tmp_path)
    assert ended.status == 0, ended.err
    assert set(ended.out.splitlines()) == {"True mpsteal"}


def test_thread_pool_and_managers_still_work(tmp_path, start_method):
    program = """
    import multiprocessing, sys
    from multiprocessing.pool import ThreadPool
    from multiprocessing.dummy import Pool as DummyPool

    if __name__ == "__main__":
        for make in (ThreadPool, DummyPool):
            with make(2) as pool:
                print(type(pool), pool.map(abs, [-1, 2]), list(pool.imap(abs, [-3])))
        with multiprocessing.get_context(sys.argv[1]).Manager() as manager:
            print(manager.dict(a=1), manager.Pool(1).map(abs, [-1, 2]))
    """
    write(tmp_path / "prog.py", program)
    assert run_both(tmp_path, "prog.py", start_method).status == 0


@pytest.mark.parametrize("arguments", [["prog.py"], ["-m", "prog"]], ids=["script", "module"])
def test_interrupt_during_map_ends_the_program_as_under_plain_python(tmp_path, gates, start_method, arguments):
    program = """
    import multiprocessing, sys

    def hold(gate):  # what Gate.wait does, for a program that has only the path
        with open(gate + ".arrived", "wb") as arrived:
            arrived.write(b".")
        with open(gate + ".permits", "rb", buffering=0) as permits:
            permits.read(1)

    if __name__ == "__main__":
        with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
            pool.map(hold, sys.argv[2:] * 2)
    """
    write(tmp_path / "prog.py", program)
    gate = gates("running")
    process = subprocess.Popen(
        [*MPSTEAL, *arguments, start_method, str(tmp_path / "running")],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        gate.wait_arrived(2)
        # To the whole group, as a terminal does it; a session of its own keeps pytest out of it.
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=ALARM_S)
    assert process.returncode == -signal.SIGINT, err
    assert out == ""
    assert err.count("Traceback (most recent call last)") == 1, err
    assert err.endswith("KeyboardInterrupt\n")


# The replacing itself.


def test_uninstall_puts_back_exactly_what_was_there():
    import multiprocessing.managers
    import multiprocessing.pool

    import mpsteal

    stock = multiprocessing.pool.Pool
    registered = multiprocessing.managers.SyncManager._registry["Pool"]
    with patch.installed():
        assert multiprocessing.pool.Pool is mpsteal.Pool
        with patch.installed():
            pass
        assert patch.is_installed()
    assert not patch.is_installed()
    assert multiprocessing.pool.Pool is stock
    assert multiprocessing.managers.SyncManager._registry["Pool"] == registered


def test_program_may_put_its_own_class_in_the_place(monkeypatch):
    import multiprocessing.pool

    with patch.installed():
        ours = multiprocessing.pool.Pool
        with monkeypatch.context() as patched:
            patched.setattr("multiprocessing.pool.Pool", dict)
            assert multiprocessing.pool.Pool is dict
        assert multiprocessing.pool.Pool is ours
