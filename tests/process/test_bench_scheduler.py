"""The rows of ``python -m bench scheduler`` run, at small sizes, in processes of their own: what they measure is not
judged here, only that they still find what they look at."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench import _rows, _run
from bench._model import Row
from bench._targets import OURS


@pytest.mark.parametrize("row", _rows.select([], table="scheduler"), ids=lambda row: row.name)
def test_row_runs(row: Row) -> None:
    cores = min(2, len(os.sched_getaffinity(0)))
    run = _run.measure_once(row, OURS, 0, quick=True, cores=cores)
    assert run.error == ""
    assert {figure.key for figure in row.figures} <= set(run.figures)
