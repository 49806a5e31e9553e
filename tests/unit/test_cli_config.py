"""`mpsteal config` prints what lies in `config/`, from a checkout and from a wheel."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from mpsteal.cli import CONFIG_FILES, main
from mpsteal.config import Config, load_config

ROOT = Path(__file__).resolve().parents[2]
ALARM_S = 100

# On 3.10 pytest itself brings tomli, which is the same.
tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")


def run(*words: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, *words],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=ALARM_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def in_config(name: str) -> str:
    return (ROOT / "config" / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("preset", CONFIG_FILES)
def test_prints_the_file_as_it_is(preset: str | None, tmp_path: Path) -> None:
    options = [] if preset is None else ["--preset", preset]
    printed = run("-m", "mpsteal", "config", *options, cwd=tmp_path)
    assert printed == in_config(CONFIG_FILES[preset])


def test_what_is_printed_is_a_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rules.yaml"
    assert main(["config"]) == 0
    path.write_text(capsys.readouterr().out)
    assert load_config(path, environ={}) == Config()
    assert main(["config", "--preset", "pool"]) == 0
    path.write_text(capsys.readouterr().out)
    assert load_config(path, environ={}).stealing.max_tasks == 0


def test_unknown_preset_is_a_usage_error_that_names_the_known(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["config", "--preset", "poll"])
    assert caught.value.code == 2
    assert "choose from" in capsys.readouterr().err


def test_build_puts_every_file_where_the_command_looks() -> None:
    target = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    wanted = {f"config/{name}": f"mpsteal/_config/{name}" for name in CONFIG_FILES.values()}
    assert target["force-include"] == wanted | {"bench": "mpsteal/_suite/bench"}  # see test_bench_door.py


@pytest.mark.skipif(
    importlib.util.find_spec("hatchling") is None, reason="hatchling is not installed: nothing to build"
)
def test_wheel_prints_them_too(tmp_path: Path) -> None:
    run("-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path), cwd=ROOT)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "unpacked")
    for place in (str(wheel), str(tmp_path / "unpacked")):  # Python imports from both
        code = f"""
import sys
sys.path.insert(0, {place!r})
from mpsteal import cli
assert cli.__file__.startswith({place!r})
cli.main(["config"])
"""
        assert run("-c", code, cwd=tmp_path) == in_config("load-balancing-config.yaml")
