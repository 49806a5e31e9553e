"""The package's metadata, and the promises that README.md makes in commands."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# On 3.10 pytest itself brings tomli, which is the same.
tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")


@pytest.fixture(scope="module")
def pyproject() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def readme_commands() -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("python3 -m venv ")]


def test_extra_test_mirrors_the_dependency_group(pyproject):
    extras, groups = pyproject["project"]["optional-dependencies"], pyproject["dependency-groups"]
    assert sorted(extras["test"]) == sorted(groups["test"])


def test_group_dev_is_all_other_groups(pyproject):
    groups = pyproject["dependency-groups"]
    included = {entry["include-group"] for entry in groups["dev"]}
    assert included == set(groups) - {"dev"}


def test_installed_package_depends_on_two_others_only():
    required = metadata.requires("mpsteal") or []
    always = {re.match(r"[\w.-]+", line)[0] for line in required if "extra ==" not in line}
    assert {name.lower() for name in always} == {"pyyaml", "psutil"}


def test_installed_version_is_the_one_in_pyproject(pyproject):
    assert metadata.version("mpsteal") == pyproject["project"]["version"]


def test_changelog_knows_the_version(pyproject):
    assert f"## [{pyproject['project']['version']}]" in (ROOT / "CHANGELOG.md").read_text()


def test_readme_has_two_commands_that_need_only_python_and_pip():
    demo, test = readme_commands()
    assert demo.endswith(" examples/analyse_stdlib.py")
    assert test.endswith("/pytest -n 4")
    for command in (demo, test):
        venv = command.split()[3]
        assert all(step.lstrip().startswith(f"{venv}/bin/") for step in command.split("&&")[1:])


def test_ci_takes_the_test_command_from_the_readme():
    script = (ROOT / ".ci" / "run").read_text()
    pattern = re.search(r"grep -E '([^']+)' README.md", script)[1]
    readme = (ROOT / "README.md").read_text().splitlines()
    assert [line for line in readme if re.search(pattern, line)] == [readme_commands()[1]]


def test_main_job_runs_and_both_pools_agree():
    command = [sys.executable, str(ROOT / "examples" / "analyse_stdlib.py"), "--limit", "40"]
    done = subprocess.run(
        [*command, "--processes", "2"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "All 3 runs gave the same 40 results." in done.stdout
