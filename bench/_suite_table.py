"""What the suite shows in the terminal: the table, the list of rows and targets, and how far a run is."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from bench import _stored, _targets
from bench._model import Row
from bench._report import DISTURBED_CORES, short
from bench._run import Run


def module_of(row: Row) -> str:
    """The scenario file that a row comes from."""
    measure = row.measure
    return str(getattr(measure, "func", measure).__module__)


def about(row: Row) -> dict[str, Any]:
    """What the JSON says of a row: its question is the first sentence of its file, its limits what that file says is
    not told."""
    words = " ".join((import_module(module_of(row)).__doc__ or "").split())
    opening = words.partition(": ")[2].partition("?")[0]
    not_told = words.partition("Not told: ")[2].partition(". ")[0].rstrip(".")
    return {
        "name": row.name,
        "title": row.title,
        "family": module_of(row).rpartition(".")[2],
        "question": f"{opening[:1].upper()}{opening[1:]}?" if opening else row.title,
        "not_told": not_told,
        "best_chunk": row.best_chunk,
        "figures": [
            {"key": f.key, "label": f.label, "unit": f.unit, "better": f.better, "has_ratio": f.has_ratio}
            for f in sorted(row.figures, key=lambda f: f.key != row.main)
        ],
    }


def listing(rows: Sequence[Row], targets: Sequence[str], skipped: Sequence[Mapping[str, str]]) -> str:
    chunks = {row.name: f" (+best: {row.best_chunk})" if row.best_chunk else "" for row in rows}
    lines = ["rows", *(f"  {row.name:22} {row.title}{chunks[row.name]}" for row in rows), "targets"]
    for name in targets:
        target = _targets.TARGETS[name]
        best = f", +best by {target.chunk_word}" if target.chunk_word else ""
        lines.append(f"  {name:22} {target.label} {target.version}{best}")
    lines += [f"  {line['target']:22} skipped: {line['why']}" for line in skipped]
    return "\n".join(lines)


def table(data: Mapping[str, Any]) -> str:
    """A block for each row: its figures' targets, best first, median and range over the rounds, and how many times the
    stock pool's figure that is."""
    found, names = _stored.cells(data), _stored.labels(data)
    lines: list[str] = []
    for row in data["rows"]:
        mine = {pool: cell for (name, pool), cell in found.items() if name == row["name"]}
        if not mine:
            continue
        figure = row["figures"][0]
        unit = f", {figure['unit']}" if figure["unit"] else ""
        lines += ["", f"{row['name']}: {row['title']}; {figure['label']}{unit}, {figure['better']} is better"]
        spreads = {pool: cell.spread(figure["key"]) for pool, cell in mine.items()}
        reference = spreads.get(_targets.STOCK)
        sign = 1 if figure["better"] == "lower" else -1
        done = sorted((pool for pool in mine if spreads[pool]), key=lambda pool: sign * spreads[pool].median)  # type: ignore[union-attr]
        for pool in done:
            spread = spreads[pool]
            assert spread is not None
            span = f"({short(spread.low)}..{short(spread.high)})" if len(spread.samples) > 1 else ""
            words = ""
            if reference and figure["has_ratio"] and reference.median > 0 and pool != _targets.STOCK:
                words = f"{short(spread.median / reference.median)} x stock"
            failed = len(mine[pool].errors)
            failures = (
                f"  {failed} of {failed + len(spread.samples)} runs failed: {mine[pool].errors[0]}" if failed else ""
            )
            lines.append(f"  {names[pool]:34} {short(spread.median):>9} {span:22} {words}{failures}".rstrip())
        for pool, cell in mine.items():
            if not spreads[pool]:
                lines.append(f"  {names[pool]:34} {'-':>9} {cell.errors[0] if cell.errors else ''}"[:140].rstrip())
    runs = data["runs"]
    failed = sum(bool(run["error"]) for run in runs)
    disturbed = sum(run["others_cores"] > DISTURBED_CORES for run in runs)
    words = (
        f"{len(runs)} runs in {data['settings']['took_s']:.0f} s, {failed} without an answer, {disturbed} while other"
    )
    lines += ["", f"{words} programs used more than {DISTURBED_CORES} core"]
    lines += [f"skipped: {line['target']}: {line['why']}" for line in data["skipped"]]
    return "\n".join(lines).strip("\n")


def grid_pools(data: Mapping[str, Any]) -> list[str]:
    """The targets of a grid, in its order."""
    return list(dict.fromkeys(pool for _, pool in _stored.pairs(data)))


def grid_cells(data: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Rows down, targets across, the head first: the medians of each row's main figure."""
    found, names, pools = _stored.cells(data), _stored.labels(data), grid_pools(data)
    lines = [("row", "figure", *(names[pool] for pool in pools))]
    for row in data["rows"]:
        figure = row["figures"][0]
        mine = [found.get((row["name"], pool), _stored.Cell()).spread(figure["key"]) for pool in pools]
        words = [short(spread.median) if spread else "-" for spread in mine]
        lines.append((row["name"], f"{figure['label']}, {figure['unit']}", *words))
    return lines


def grid(data: Mapping[str, Any]) -> str:
    """`grid_cells` as aligned text."""
    lines = grid_cells(data)
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    lines.insert(1, tuple("-" * width for width in widths))
    return "\n".join(
        "  ".join(c.ljust(w) if k < 2 else c.rjust(w) for k, (c, w) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    )


class Progress:
    """A line for each run with the time left: what the same pair took before, or what a run takes on average where it
    has not run yet. A bar below them where tqdm is there and somebody looks on."""

    def __init__(self, left: Sequence[tuple[Row, str, int]], before: Sequence[Mapping[str, Any]]) -> None:
        self.pairs = [(row.name, name) for row, name, _ in left]
        self.main = {row.name: row.main or row.figures[0].key for row, _, _ in left}
        self.took: dict[tuple[str, str], float] = {(run["row"], run["pool"]): run["seconds"] for run in before}
        self.done = 0
        self.bar: Any = None
        if sys.stderr.isatty():
            try:
                from tqdm import tqdm
            except ImportError:
                return
            self.bar = tqdm(
                total=len(self.pairs), unit="run", bar_format="{percentage:3.0f}%|{bar}| {n}/{total}{postfix}"
            )

    def left_s(self) -> float:
        """Seconds until the end, as far as one can know."""
        if not self.took:
            return 0.0
        usual = statistics.mean(self.took.values())
        return sum(self.took.get(pair, usual) for pair in self.pairs[self.done :])

    def tell(self, run: Run, seconds: float) -> None:
        self.took[run.row, run.pool] = seconds
        self.done += 1
        main = self.main[run.row]
        words = run.error or f"{main} {short(run.figures[main])}"
        left = self.left_s()
        left_words = f"{left / 60:.0f} min left" if left >= 90 else f"{left:.0f} s left"
        line = f"{run.row} {run.pool} round {run.round + 1}: {words}"[:110]
        if self.bar is not None:
            self.bar.set_postfix_str(left_words, refresh=False)
            self.bar.update()
            self.bar.write(line, file=sys.stderr)
        else:
            print(f"[{self.done}/{len(self.pairs)}, {left_words}] {line}", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
