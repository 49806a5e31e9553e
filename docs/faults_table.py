"""Prints the comparison of `docs/explanation/faults.md` from the stored run in `bench/results/faults.json`.

python docs/faults_table.py           print it
python docs/faults_table.py --write   put it in the page, between its markers

A test checks that the page holds exactly what this file makes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `bench` lies beside this folder

from _markers import fill_between

from bench import _fault_pools, faults

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "explanation" / "faults.md"
BEGIN, END = "<!-- table: peers -->", "<!-- end: peers -->"
OURS = "mpsteal"


def columns(data: dict[str, Any]) -> list[str]:
    """The pools of the file, ours first."""
    return sorted(data["pools"], key=lambda pool: (pool != OURS, list(_fault_pools.ADAPTERS).index(pool)))


def facts(data: dict[str, Any]) -> Iterator[str]:
    """Where, when and with what it was run."""
    machine, settings = data["machine"], data["settings"]
    yield (
        f"Python {machine['python']}, {machine['system']}, {machine['machine']}, {machine['cores_usable']} cores "
        f"({machine['processor']}), two workers, {settings['rounds']} rounds; a hang is {settings['wait_s']:.0f} s of "
        "silence."
    )
    yield ""
    yield "| pool | version | start method | run on |"
    yield "| --- | --- | --- | --- |"
    for pool in columns(data):
        about = data["pools"][pool]
        days = sorted({run["made"][:10] for run in data["runs"] if run["pool"] == pool})
        commits = sorted({str(run["commit"]) for run in data["runs"] if run["pool"] == pool})
        version = about["version"] + (f" ({', '.join(commits)})" if pool == OURS else "")
        days = [days[0], days[-1]] if len(days) > 1 else days
        yield f"| {_fault_pools.ADAPTERS[pool].label} | {version} | {about['start_method']} | {' to '.join(days)} |"


def make_table(data: dict[str, Any]) -> str:
    """Facts, verdicts, and the sentence that each verdict rests on."""
    pools = columns(data)
    runs, scenes = data["runs"], data["scenes"]
    names = [scene["name"] for scene in scenes]
    lines = [*facts(data), ""]
    lines.append(f"| fault | {' | '.join(_fault_pools.ADAPTERS[pool].label for pool in pools)} |")
    lines.append("| --- |" + " --- |" * len(pools))
    for scene in scenes:
        cells = (faults.cell(runs, scene["name"], pool) for pool in pools)
        lines.append(f"| {scene['title']} | {' | '.join(cells)} |")
    scores = (faults.score(runs, names, pool) for pool in pools)
    lines.append(f"| **ok in all rounds** | {' | '.join(f'**{score}**' for score in scores)} |")
    lines += ["", "| fault | what counts as ok | its name |", "| --- | --- | --- |"]
    lines += [f"| {scene['title']} | {scene['ok']} | `{scene['name']}` |" for scene in scenes]
    return "\n".join(lines)


def fill(text: str) -> str:
    """The page's text with the tables made anew."""
    return fill_between(text, BEGIN, END, make_table(json.loads(faults.RESULTS.read_text())))


if __name__ == "__main__":
    if "--write" in sys.argv:
        PAGE.write_text(fill(PAGE.read_text()))
    else:
        sys.stdout.write(make_table(json.loads(faults.RESULTS.read_text())) + "\n")
