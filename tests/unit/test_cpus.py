"""How many CPUs we may use: affinity and the cgroup's quota, from trees made by the test."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mpsteal._engine.cpus import usable_cpus


@pytest.fixture(autouse=True)
def _eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)


def tree(root: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return str(root)


V1 = ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        pytest.param({}, 8, id="no cgroup: what affinity allows"),
        pytest.param({"cpu.max": "200000 100000"}, 2, id="v2"),
        pytest.param({"cpu.max": "150000 100000"}, 2, id="v2, rounded up"),
        pytest.param({"cpu.max": "10000 100000"}, 1, id="v2, at least one"),
        pytest.param({"cpu.max": "max 100000"}, 8, id="v2 without a quota"),
        pytest.param({"cpu.max": "3200000 100000"}, 8, id="a quota above what affinity allows"),
        pytest.param({"cpu.max": "?"}, 8, id="v2 that makes no sense"),
        pytest.param({V1[0]: "300000", V1[1]: "100000"}, 3, id="v1"),
        pytest.param({V1[0]: "-1", V1[1]: "100000"}, 8, id="v1 without a quota"),
        pytest.param({V1[0]: "300000"}, 8, id="v1, half of it"),
        pytest.param(
            {"cpu.max": "400000 100000", V1[0]: "300000", V1[1]: "100000"},
            3,
            id="both: the tighter one",
        ),
    ],
)
def test_quota(tmp_path: Path, files: dict[str, str], cpus: int) -> None:
    assert usable_cpus(tree(tmp_path, files)) == cpus


def test_tightest_of_the_groups_above_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Path.read_text
    monkeypatch.setattr(
        Path,
        "read_text",
        lambda self, *a, **k: "0::/a/b\n" if str(self) == "/proc/self/cgroup" else read(self, *a, **k),
    )
    root = tree(tmp_path, {"a/cpu.max": "200000 100000", "a/b/cpu.max": "600000 100000", "cpu.max": "max 1"})
    assert usable_cpus(root) == 2


def test_without_affinity_all_cpus_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    assert usable_cpus(str(tmp_path)) == 8
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cpus(str(tmp_path)) == 1
