"""joblib's own parallel tests, run with mpsteal's backend in the place of loky's; see `joblib_plugin.py`."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mpsteal

pytest.importorskip("joblib")
if importlib.util.find_spec("joblib.test.test_parallel") is None:
    pytest.skip("joblib is installed without its tests", allow_module_level=True)

HERE = Path(__file__).resolve().parent
ALARM_S = 900

EXEMPT = {
    "test_error_capture": "looks for another pool object after an error; ours lives on, and what ran has been ended",
    "test_nested_parallel_warnings[mpsteal-multiprocessing-True]": (
        "expects a warning that multiprocessing cannot be nested below; in our agents it can"
    ),
    "test_auto_memmap_on_arrays_from_generator": "wants memory maps: arrays come as arrays, by shared memory",
    "test_memmapping_leaks": "the same",
    "test_backend_batch_statistics_reset": "reads attributes of loky's way to find the size of a batch",
}
"""joblib's tests that cannot apply: id, or name, to reason."""

QUICK = (
    "test_simple_parallel[2-2- or test_parallel_kwargs or test_parallel_timeout or test_error_in_task_iterator "
    "or test_dispatch_one_job or test_dispatch_multiprocessing or test_nested_parallelism_limit "
    "or test_nested_backend_in_sequential or test_backend_nesting_level or test_invalid_njobs "
    "or test_lambda_expression or test_multiple_generator_call_separated_gc or test_abort_backend[-1"
)
"""What the ordinary run picks: quick ones, and each of joblib's rules once."""


def run_joblibs(tmp_path: Path, *options: str) -> tuple[str, list[str], int]:
    """Run them in a process of their own; what it printed, the ids of those that failed, how many passed."""
    root = str(Path(mpsteal.__file__).resolve().parents[1])
    paths = [str(HERE / "joblib_site"), str(HERE), root, os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "--pyargs", "joblib.test.test_parallel", "-p", "joblib_plugin"),
            *("-q", "-p", "no:cacheprovider", "--timeout", "120", "--tb", "short", "-rf", *options),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTEST_ADDOPTS": ""},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=ALARM_S,
        check=False,
    )
    text = done.stdout + done.stderr
    failed = re.findall(r"^(?:FAILED|ERROR) \S*?::(\S+(?: \S+)*?)(?: - .*)?$", text, re.MULTILINE)
    passed = re.search(r"(\d+) passed", text)
    return text, failed, int(passed[1]) if passed else 0


def unexplained(failed: list[str]) -> list[str]:
    return [test for test in failed if test not in EXEMPT and test.split("[")[0] not in EXEMPT]


def test_joblibs_rules_hold(tmp_path: Path) -> None:
    text, failed, passed = run_joblibs(tmp_path, "-k", QUICK)
    assert not unexplained(failed), text
    assert passed > 25, text


@pytest.mark.stress
@pytest.mark.timeout(ALARM_S)
def test_all_of_joblibs_tests_that_take_a_backend_pass(tmp_path: Path) -> None:
    text, failed, passed = run_joblibs(tmp_path)
    assert not unexplained(failed), text
    assert passed > 120, text
    assert {test.split("[")[0] for test in failed} == {test.split("[")[0] for test in EXEMPT}, "a reason is outdated"
