"""Prints the tables of `docs/explanation/scale.md` from the stored run in `bench/results/scale_simulation.json`.

python docs/scale_table.py           print them
python docs/scale_table.py --write   put them in the page, between its markers

A test checks that the page holds exactly what this file makes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `bench` lies beside this folder

from _markers import fill_between

from bench import scale
from bench._scale import LOADS

PAGE = Path(__file__).resolve().parent / "explanation" / "scale.md"
BEGIN, END = "<!-- tables: scale -->", "<!-- end: scale -->"
ALL_RUN = 1_000
"""Agents, at most, for which the stored run has all schemes and loads."""


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _head(*cells: str) -> Iterator[str]:
    yield _line(*cells)
    yield _line(*["---"] * len(cells))


def _short(value: float) -> str:
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}"


def by_agents(runs: list[dict[str, Any]], mean_ms: float) -> Iterator[str]:
    """Makespan over bound, as the mean over the loads and the worst of them."""
    sizes = sorted({run["agents"] for run in runs if run["agents"] <= ALL_RUN})
    yield from _head(f"tasks of {mean_ms:g} ms", *(f"{size:,} agents" for size in sizes))
    for scheme in scale.SCHEMES:
        cells = []
        for size in sizes:
            over = [
                run["over_bound"]
                for run in runs
                if (run["scheme"], run["agents"], run["mean_ms"]) == (scheme, size, mean_ms)
            ]
            cells.append(f"{_short(fmean(over))} ({_short(max(over))})" if over else "")
        yield _line(scheme, *cells)


def by_load(runs: list[dict[str, Any]], agents: int, mean_ms: float) -> Iterator[str]:
    """Makespan over bound by load, and what it took, for one number of agents."""
    there = [run for run in runs if (run["agents"], run["mean_ms"]) == (agents, mean_ms)]
    loads = [load for load in LOADS if any(run["load"] == load for run in there)]
    heads = (*loads, "steals per agent", "failed per agent", "messages per task", "parent busy")
    yield from _head(f"{agents:,} agents, {mean_ms:g} ms", *heads)
    for scheme in scale.SCHEMES:
        own = {run["load"]: run for run in there if run["scheme"] == scheme}
        if not own:
            continue
        over = (_short(own[load]["over_bound"]) if load in own else "" for load in loads)
        steals, failed, messages, busy = (
            fmean(run[key] for run in own.values())
            for key in ("steals_per_agent", "failed_per_agent", "messages_per_task", "parent_busy")
        )
        yield _line(scheme, *over, f"{steals:.1f}", f"{failed:.1f}", f"{messages:.3f}", f"{busy:.0%}")


def make_tables(data: dict[str, Any]) -> str:
    runs = data["runs"]
    tables = [by_agents(runs, mean_ms) for mean_ms in scale.MEANS_MS]
    tables += [by_load(runs, agents, mean_ms) for agents in (ALL_RUN, 10_000) for mean_ms in scale.MEANS_MS]
    return "\n\n".join("\n".join(table) for table in tables)


def fill(text: str) -> str:
    """The page's text with the tables made anew."""
    return fill_between(text, BEGIN, END, make_tables(json.loads(scale.RESULTS.read_text())))


if __name__ == "__main__":
    if "--write" in sys.argv:
        PAGE.write_text(fill(PAGE.read_text()))
    else:
        sys.stdout.write(make_tables(json.loads(scale.RESULTS.read_text())) + "\n")
