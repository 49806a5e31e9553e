"""`mpsteal bench` finds the suite beside the package (checkout) or inside it (wheel), or says that there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpsteal import _bench_door


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in the place of the package."""
    folder = tmp_path / "mpsteal"
    folder.mkdir()
    monkeypatch.setattr(_bench_door, "__file__", str(folder / "_bench_door.py"))
    return folder


def put_suite(folder: Path) -> None:
    (folder / "bench").mkdir(parents=True)
    (folder / "bench" / "suite.py").touch()


def test_wheel_has_it_inside(package: Path) -> None:
    put_suite(package / "_suite")
    assert _bench_door.find_suite() == package / "_suite"


def test_checkout_has_it_beside(package: Path) -> None:
    put_suite(package.parent)
    assert _bench_door.find_suite() == package.parent


def test_other_package_called_bench_is_not_it(package: Path) -> None:
    (package.parent / "bench").mkdir()
    assert _bench_door.find_suite() is None


def test_without_it_the_command_says_so(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _bench_door.main(["--list"]) == 1
    assert "the suite is not here" in capsys.readouterr().err
