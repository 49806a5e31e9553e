"""Prints the tables of `docs/explanation/side-by-side.md` from the stored reference runs in `bench/results/`.

python docs/suite_table.py           print them
python docs/suite_table.py --write   put them in the page, between its markers

A test checks that the page holds exactly what this file makes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `bench` lies beside this folder

from _markers import fill_between

from bench import _growth, _stored
from bench._report import DISTURBED_CORES, short
from bench._stored import BEST, Cell

ROOT = Path(__file__).resolve().parents[1]
SUITE = ROOT / "bench/results/suite-2-cores.json"
GROWTH = ROOT / "bench/results/growth-2-cores.json"
DOORS = ("mpsteal", "mpsteal-executor", "mpsteal-scheduler")
NO_PEERS = ("serial", "stock", "stock" + BEST, *DOORS)
PAGE = ROOT / "docs/explanation/side-by-side.md"
PLACES = {"suite": PAGE, "peers": PAGE, "growth": PAGE}
"""Where each part stands, between ``<!-- suite: NAME -->`` and ``<!-- end: NAME -->``."""


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _head(*cells: str) -> Iterator[str]:
    yield _line(*cells)
    yield _line(*["---"] * len(cells))


def _value(cell: Cell | None, key: str, *, span: bool = False) -> str:
    """The median, with the range if wanted; what went wrong where there is none; empty where it was not measured."""
    if cell is None:
        return ""
    spread = cell.spread(key)
    if spread is None:
        return "hangs" if any(word in cell.errors[0] for word in ("Hang", "no answer")) else "fails"
    words = short(spread.median)
    if span and spread.low != spread.high:
        words += f" ({short(spread.low)}..{short(spread.high)})"
    if cell.errors:
        words += f", {len(cell.errors)} of {len(cell.errors) + len(spread.samples)} failed"
    return words


def _figure(row: Mapping[str, Any]) -> str:
    figure = row["figures"][0]
    unit = f", {figure['unit']}" if figure["unit"] else ""
    return f"{figure['label']}{unit}" + (" (more is better)" if figure["better"] == "higher" else "")


def _about(data: Mapping[str, Any], path: Path) -> str:
    machine, runs = data["machine"], data["runs"]
    count = len({run["round"] for run in runs})
    rounds = "1 round" if count == 1 else f"{count} rounds"
    disturbed = sum(run["others_cores"] > DISTURBED_CORES for run in runs)
    return (
        f"Reference run of {data['made'][:10]}, `{data['command']}`: {rounds}, Python {machine['python']}, "
        f"{machine['system']}, {machine['processor']}, {machine['cores_usable']} cores, {len(runs)} runs, of them "
        f"{disturbed} while other programs used more than {DISTURBED_CORES} core; the file is "
        f"[bench/results/{path.name}](../../bench/results/{path.name})."
    )


def suite(data: Mapping[str, Any]) -> Iterator[str]:
    """mpsteal's doors, the stock pool, and the best of all others, with its name."""
    found, names = _stored.cells(data), _stored.labels(data)
    yield _about(data, SUITE)
    yield ""
    yield from _head("workload", "figure", "Pool", "Executor", "scheduler", "stock Pool", "best setting", "best other")
    for row in data["rows"]:
        key, sign = row["figures"][0]["key"], 1 if row["figures"][0]["better"] == "lower" else -1
        mine = {pool: cell for (name, pool), cell in found.items() if name == row["name"]}
        others = [(cell.spread(key), pool) for pool, cell in mine.items() if pool not in NO_PEERS]
        best = min(((sign * spread.median, pool) for spread, pool in others if spread), default=None)
        yield _line(
            f"{row['name']}",
            _figure(row),
            *(
                _value(mine.get(pool), key, span=pool in ("mpsteal", "stock"))
                for pool in (*DOORS, "stock", "stock" + BEST)
            ),
            f"{short(sign * best[0])} {names[best[1]]}" if best else "",
        )


def peers(data: Mapping[str, Any]) -> Iterator[str]:
    """All medians: the default, and behind a stroke the best setting."""
    found, names = _stored.cells(data), _stored.labels(data)
    pools = [target["name"] for target in data["targets"] if target["name"] not in (*DOORS, "stock")]
    yield from _head("workload", *(names[pool] for pool in pools))
    for row in data["rows"]:
        key, cells = row["figures"][0]["key"], []
        for pool in pools:
            both = [_value(found.get((row["name"], name)), key) for name in (pool, pool + BEST)]
            cells.append(" / ".join(word for word in both if word))
        yield _line(row["name"], *cells)


def growth(data: Mapping[str, Any]) -> Iterator[str]:
    """What a task costs by how many there are, and a makespan by how many agents; a table for each kind. Empty: not
    measured, since one run would take minutes."""
    names, cells = _stored.labels(data), _stored.cells(data)
    yield _about(data, GROWTH)
    for kind in _growth.kinds(data):
        yield ""
        yield f"**{kind.question}** {_growth.sentence(kind, names)} {kind.limits}."
        yield ""
        found = {curve.target: dict(curve.spreads()) for curve in kind.curves}
        yield from _head(f"{kind.over}: {kind.caption}", *(names[target] for target in found))
        for row in (row["name"] for row in data["rows"] if row["name"].startswith(f"{kind.name}-")):
            size = int(float(row.removeprefix(f"{kind.name}-")))
            words = []
            for target, points in found.items():
                errors = cells[row, target].errors if (row, target) in cells else []
                late = bool(errors) and all("no answer within" in error for error in errors)
                over = errors[0].replace("no answer within", "over") if late else ""
                words.append(short(points[size].median) if size in points else over)
            yield _line(_growth.count(size), *words)


PARTS = {"suite": (suite, SUITE), "peers": (peers, SUITE), "growth": (growth, GROWTH)}


def make(name: str) -> str:
    part, path = PARTS[name]
    return "\n".join(part(_stored.read(path)))


def fill(text: str, name: str) -> str:
    """The text with that part anew."""
    return fill_between(text, f"<!-- suite: {name} -->", f"<!-- end: {name} -->", make(name))


def main() -> None:
    for name, path in PLACES.items():
        if "--write" in sys.argv[1:]:
            path.write_text(fill(path.read_text(), name))
        else:
            sys.stdout.write(f"{make(name)}\n\n")


if __name__ == "__main__":
    main()
