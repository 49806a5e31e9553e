"""Runs the interpreter's own Pool tests against `mpsteal.Pool`; nothing of them is copied here.

    test_cpython_pool.py (pytest)           this file as a program, one fresh process per batch
    -----------------------------           --------------------------------------------------
    list_tests()  ----- "list" ----->       import site/pool_tests_<method>.py, read the sources,
                  <---- one JSON -----      keep each test that reaches for a Pool
    run_batch()   ----- "run" ------>       run them under unittest, an alarm armed for each
                  <---- JSON lines ---      one line when a test starts, one when it has ended
        |
        +-- a test that started and never ended is the one that hung or killed its process; the
            rest of the batch goes on in a fresh process, and what is left of the old one is
            counted as a leak and killed

The exchange of the pool is made by `site/sitecustomize.py`, in this program and in every
interpreter it starts. `MPSTEAL_DROPIN_POOL=multiprocessing.pool:Pool` is the control run: the same
selection, the same alarm, the stock pool. It shows which results are the pool's doing, and
which the machine's:

    MPSTEAL_DROPIN_POOL=multiprocessing.pool:Pool python -m pytest tests/dropin/test_cpython_pool.py

How a test is selected. The interpreter's test classes are installed by its own function, once for
each start method, with the module-level set-up that goes with them. A test is kept when
it, its class's `setUp` or `setUpClass`, or a helper that one of these names, mentions `Pool`: as
a name, an attribute, or inside a script in a string. The sources are read for that (`ast`), so
a test added by a later Python is selected without a change here. The thread pool's tests ride
along once, under fork: `ThreadPool` is no business of ours, but must go on working while its base
class is replaced.
"""

from __future__ import annotations

import argparse
import ast
import faulthandler
import functools
import importlib
import importlib.util
import inspect
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SITE = HERE / "site"
START_METHODS = ("fork", "spawn", "forkserver")

#: Deadlock alarm for one test, in seconds. Too small and a slow machine raises false alarms (the
#: longest stock test, 200 processes, takes 3 s on two cores); too big and a hang costs that long.
ALARM_S = float(os.environ.get("MPSTEAL_DROPIN_ALARM_S", "120"))

#: How long processes that lost their parent may take to end, in seconds. They notice through the
#: kernel, so this is an alarm too.
LINGER_S = 15.0

_MAIN_HANDLING_CLASSES = {
    "fork": "ForkCmdLineTest",
    "spawn": "SpawnCmdLineTest",
    "forkserver": "ForkServerCmdLineTest",
}


# -- which functions of a source reach for a Pool --------------------------------------


def find_pool_users(tree: ast.Module) -> set[str]:
    """Find the functions that reach for a Pool, themselves or through a helper they name.

    Args:
        tree: A parsed test module.

    Returns:
        Qualified names, such as `f` or `Class.f`. Only functions at module or class level;
        what is nested in them counts as theirs.
    """
    functions = dict(_outer_functions(tree))
    mentions = {name: _mentions(node) for name, node in functions.items()}
    users = {name for name, words in mentions.items() if "Pool" in words}
    while True:
        # Only plain helpers spread it: a fixture is followed through its class, not by its name.
        helpers = {short for name in users if not _is_hook(short := name.rpartition(".")[2])}
        more = {name for name, words in mentions.items() if words & helpers} - users
        if not more:
            return users
        users |= more


def find_private_pokes(tree: ast.Module) -> dict[str, set[str]]:
    """Find test methods that touch an underscored attribute of something called p or pool."""
    found: dict[str, set[str]] = {}
    for name, node in _outer_functions(tree):
        for part in ast.walk(node):
            if (
                isinstance(part, ast.Attribute)
                and part.attr.startswith("_")
                and not part.attr.startswith("__")
                and isinstance(part.value, ast.Name)
                and part.value.id in ("p", "pool")
            ):
                found.setdefault(name, set()).add(part.attr)
    return found


def _outer_functions(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node.name, node
        elif isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef):
                    yield f"{node.name}.{inner.name}", inner


def _mentions(node: ast.AST) -> set[str]:
    words = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Name):
            words.add(part.id)
        elif isinstance(part, ast.Attribute):
            words.add(part.attr)
        elif isinstance(part, ast.Constant) and isinstance(part.value, str) and re.search(r"\bPool\b", part.value):
            words.add("Pool")
    return words


def _is_hook(name: str) -> bool:
    return name.startswith("test") or name in ("setUp", "setUpClass", "Pool")


def _is_pool_test(case: unittest.TestCase, users: set[str]) -> bool:
    method = case.id().rpartition(".")[2]
    for cls in type(case).__mro__:
        if any(f"{cls.__name__}.{hook}" in users for hook in (method, "setUp", "setUpClass")):
            return True
    return False


# -- the program's side: load, list, run -----------------------------------------------


def flatten(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    for part in suite:
        if isinstance(part, unittest.TestSuite):
            yield from flatten(part)
        else:
            yield part


def _load_module_tests(name: str) -> Iterator[unittest.TestCase]:
    return flatten(unittest.defaultTestLoader.loadTestsFromName(name))


def _parse(module: Any) -> ast.Module:
    return ast.parse(inspect.getsource(module))


def short_id(case: unittest.TestCase) -> str:
    """Class and method: the same on every version, wherever the module lies."""
    return ".".join(case.id().split(".")[-2:])


def load_tests_for(method: str) -> Iterator[unittest.TestCase]:
    """Yield every test of the running interpreter that reaches for a Pool, for one start method."""
    import test._test_multiprocessing as shared

    users = find_pool_users(_parse(shared))
    for case in _load_module_tests(f"pool_tests_{method}"):
        if getattr(case, "TYPE", None) == "threads" and method != "fork":
            continue
        if _is_pool_test(case, users):
            yield case

    # Programs run in every way Python can run one, each of which maps over a Pool.
    for case in _load_module_tests("test.test_multiprocessing_main_handling"):
        if type(case).__name__ == _MAIN_HANDLING_CLASSES[method]:
            yield case

    # These try all start methods by themselves, so they run once.
    if method == "fork":
        for name in ("test.test_logging",):
            module = importlib.import_module(name)
            users = find_pool_users(_parse(module))
            for case in _load_module_tests(name):
                if _is_pool_test(case, users):
                    yield case


class ReportingResult(unittest.TestResult):
    """Writes one JSON line as a test starts and one as it ends; arms the alarm around it."""

    def __init__(self, report: Any) -> None:
        super().__init__()
        self._report = report
        self._outcome: dict[str, Any] = {}
        self._arm()

    def _arm(self) -> None:
        # Not to `sys.stderr`: one test of executors replaces it from the thread that reads results, and where that is
        # sooner than the test's own replacement, it is not put back.
        faulthandler.dump_traceback_later(ALARM_S, exit=True, file=sys.__stderr__)

    def _write(self, **fields: Any) -> None:
        self._report.write(json.dumps(fields) + "\n")
        self._report.flush()

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self._arm()
        self._outcome = {"outcome": "passed", "detail": ""}
        self._began = time.monotonic()
        self._write(event="started", test=short_id(test))

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        self._arm()
        took_s = round(time.monotonic() - self._began, 2)
        self._write(event="ended", test=short_id(test), took_s=took_s, **self._outcome)

    def _settle(self, test: Any, outcome: str, detail: str) -> None:
        if isinstance(test, unittest.TestCase):
            self._outcome = {"outcome": outcome, "detail": detail}
        else:
            # setUpClass, setUpModule and kin have a stand-in object, not a test.
            self._write(event="fixture", test=str(test), outcome=outcome, detail=detail)

    def addError(self, test: Any, err: Any) -> None:
        super().addError(test, err)
        self._settle(test, "failed", self.errors[-1][1])

    def addFailure(self, test: Any, err: Any) -> None:
        super().addFailure(test, err)
        self._settle(test, "failed", self.failures[-1][1])

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:
        super().addSubTest(test, subtest, err)
        if err is not None:
            self._settle(test, "failed", (self.errors + self.failures)[-1][1])

    def addSkip(self, test: Any, reason: str) -> None:
        super().addSkip(test, reason)
        self._settle(test, "skipped", reason)

    def addExpectedFailure(self, test: Any, err: Any) -> None:
        super().addExpectedFailure(test, err)
        self._settle(test, "skipped", "expected to fail on this interpreter")

    def addUnexpectedSuccess(self, test: Any) -> None:
        super().addUnexpectedSuccess(test)
        self._settle(test, "failed", "passes, although marked as an expected failure")


def require_replacement() -> None:
    site = sys.modules.get("sitecustomize")
    if site is None or Path(str(site.__file__)).resolve().parent != SITE:
        raise SystemExit(f"the pool was not replaced: {SITE} is not first on PYTHONPATH")


def _main_list() -> None:
    found: dict[str, list[str]] = {}
    try:
        for method in START_METHODS:
            found[method] = [short_id(case) for case in load_tests_for(method)]
        import test._test_multiprocessing as shared

        pokes = {name: sorted(attrs) for name, attrs in find_private_pokes(_parse(shared)).items()}
        answer: dict[str, Any] = {"tests": found, "pokes": pokes}
    except (ImportError, unittest.SkipTest) as error:
        answer = {"missing": f"{type(error).__name__}: {error}"}
    sys.stdout.write(json.dumps(answer) + "\n")


def run_suite(suite: unittest.TestSuite, report_path: str) -> None:
    """Run tests under the alarm and write what becomes of them."""
    from test import support
    from test.support import script_helper

    # `assert_python_ok` starts Python with -I, which ignores PYTHONPATH and so would bring back
    # the stock pool. It leaves -I out for interpreters that need their environment; ours does.
    script_helper.interpreter_requires_environment = lambda: True

    with open(report_path, "a", encoding="utf-8") as report:
        result = ReportingResult(report)
        suite.run(result)
        faulthandler.cancel_dump_traceback_later()
        # The suite's class tear-downs compare processes and threads before and after.
        altered = bool(getattr(support, "environment_altered", False))
        report.write(json.dumps({"event": "done", "altered": altered}) + "\n")


def main(
    what: str = "Pool tests", list_them: Callable[[], None] = _main_list, load: Callable[[str], Any] = load_tests_for
) -> None:
    """The program. `list_them` prints what there is, `load` gives the tests of a start method."""
    parser = argparse.ArgumentParser(description=f"Run the interpreter's own {what}.")
    parser.add_argument("action", choices=("list", "run"))
    parser.add_argument("--method", choices=START_METHODS)
    parser.add_argument("--tests", help="a file with a JSON list of test ids")
    parser.add_argument("--report", help="the file to which JSON lines are appended")
    args = parser.parse_args()
    # The folder of this file must not shadow anything the tests import.
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != HERE]
    require_replacement()
    if args.action == "list":
        list_them()
    else:
        wanted = set(json.loads(Path(args.tests).read_text(encoding="utf-8")))
        run_suite(unittest.TestSuite(case for case in load(args.method) if short_id(case) in wanted), args.report)


# -- the caller's side -----------------------------------------------------------------


class Batch:
    """What one start method's tests gave.

    Attributes:
        verdicts: Test id to `(outcome, detail)`; outcome is passed, failed or skipped.
        altered: Messages of the suite's own check for dangling processes and threads.
        left_behind: Processes still alive after the program had ended, as text.
        took_s: Test id to seconds, for whoever looks for slow ones.
    """

    def __init__(self) -> None:
        self.verdicts: dict[str, tuple[str, str]] = {}
        self.altered: list[str] = []
        self.left_behind: list[str] = []
        self.took_s: dict[str, float] = {}


def _environment() -> dict[str, str]:
    env = dict(os.environ)
    path = [str(SITE)]
    spec = importlib.util.find_spec("mpsteal")
    if spec is not None and spec.origin is not None:
        path.append(str(Path(spec.origin).parent.parent))
    env["PYTHONPATH"] = os.pathsep.join(path)
    env.pop("PYTHONSTARTUP", None)
    return env


def _command(program: str, *args: str) -> list[str]:
    return [sys.executable, str(Path(program).resolve()), *args]


@functools.cache
def list_tests(program: str = __file__) -> dict[str, Any]:
    """Ask a fresh interpreter which of its tests use a Pool.

    Args:
        program: this file, or another one that takes the same arguments.

    Returns:
        `{"tests": {start method: [test ids]}, "pokes": {function: [private names]}}`, or
        `{"missing": why}` where the test package is not installed (many distributions
        put it in a package of its own) or does not run on this machine.
    """
    done = subprocess.run(
        _command(program, "list"), env=_environment(), capture_output=True, text=True, timeout=ALARM_S
    )
    if done.returncode != 0:
        return {"broken": done.stdout + done.stderr}
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def run_batch(method: str, wanted: list[str], program: str = __file__) -> Batch:
    """Run tests for one start method, in as many fresh processes as hangs and crashes make it.

    Args:
        method: fork, spawn or forkserver.
        wanted: Test ids, as `list_tests` gave them.
        program: as in `list_tests`.

    Returns:
        A verdict for each of `wanted`, and what was left behind.
    """
    batch = Batch()
    open_ids = list(wanted)
    while open_ids:
        output, events, code, left = _run_once(program, method, open_ids)
        batch.left_behind += left
        _enter_events(events, open_ids, output, code, batch)
        remaining = [test for test in open_ids if test not in batch.verdicts]
        if len(remaining) == len(open_ids):
            for test in remaining:
                why = f"the test program ended with {code} before any test ran\n{output}"
                batch.verdicts[test] = ("failed", why)
        open_ids = [test for test in remaining if test not in batch.verdicts]
    return batch


def _enter_events(events: list[dict[str, Any]], tests: list[str], output: str, code: int, batch: Batch) -> None:
    running = None
    for event in events:
        if event["event"] == "started":
            running = event["test"]
        elif event["event"] == "ended":
            running = None
            batch.verdicts[event["test"]] = (event["outcome"], event["detail"])
            batch.took_s[event["test"]] = event["took_s"]
        elif event["event"] == "fixture":
            _enter_fixture(event, tests, batch)
        elif event["event"] == "done" and event["altered"]:
            batch.altered.append(output)
    if running is not None:
        how = "hung" if "Timeout (" in output else f"ended the test program ({code})"
        batch.verdicts[running] = ("failed", f"{running} {how}\n{output}")


def _enter_fixture(event: dict[str, Any], tests: list[str], batch: Batch) -> None:
    """Give the tests of a failed or skipping set-up its outcome; they never start."""
    stage, _, owner = event["test"].rstrip(")").partition(" (")
    if stage.startswith("setUp"):
        cls = owner.rpartition(".")[2]
        for test in tests:
            if stage == "setUpModule" or test.partition(".")[0] == cls:
                batch.verdicts.setdefault(test, (event["outcome"], event["detail"]))
    else:
        batch.altered.append(f"{event['test']}: {event['outcome']}\n{event['detail']}")


def _run_once(program_path: str, method: str, tests: list[str]) -> tuple[str, list[dict[str, Any]], int, list[str]]:
    with tempfile.TemporaryDirectory(prefix="mpsteal-dropin-") as folder:
        output_path = Path(folder, "output")
        report_path = Path(folder, "report")
        tests_path = Path(folder, "tests")
        report_path.touch()
        tests_path.write_text(json.dumps(tests), encoding="utf-8")
        work = Path(folder, "work")
        work.mkdir()
        argv = _command(
            program_path, "run", "--method", method, "--tests", str(tests_path), "--report", str(report_path)
        )
        with output_path.open("wb") as output:
            # A session of its own: whoever stays behind can be told from everybody else.
            program = subprocess.Popen(
                argv,
                cwd=work,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                code = program.wait(timeout=ALARM_S * (len(tests) + 1))
            except BaseException:
                program.kill()
                code = program.wait()
                _end_session(program.pid, 0.0)
                raise
        left = _end_session(program.pid, LINGER_S)
        events = [json.loads(line) for line in report_path.read_text("utf-8").splitlines()]
        return output_path.read_text("utf-8", "replace"), events, code, left


def _end_session(session: int, patience_s: float) -> list[str]:
    """Wait for the processes of a session to end, kill those that do not, and name them."""
    import psutil

    members = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                members.append(process)
        except (OSError, psutil.Error):
            continue
    _, alive = psutil.wait_procs(members, timeout=patience_s)
    named = []
    for process in alive:
        named.append(f"{process.pid}: {process.info['cmdline']}")
        try:
            os.kill(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    return named


if __name__ == "__main__":
    main()
