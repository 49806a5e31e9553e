"""A stored run as one HTML file that needs nothing else: first the question, then the answer, then the limits.

    data ─> _standings: who is better than whom in a row, by how much, in how many rounds ─┐
         ─> _plots: a drawing for each row (matplotlib, inline SVG) ───────────────────────┴─> the page
    data of a growth run ─> _growth_html: a drawing for each kind, and a table of all ─────────^

Each sentence of an answer is computed, and where mpsteal loses is said as the gain is: by the same rule, in the same
place. *Better* means in every round of both; what changes sides with the round is called no clear difference. What is
in the file is escaped: rows, versions and errors are text, whatever they hold.

Not told: anything that is not in the JSON. Rounds are few, so ranges are shown and no intervals; `compare` has those.
"""

from __future__ import annotations

import html
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import _growth, _growth_html, _stored
from bench._growth_plots import picture
from bench._plots import MissingError, plot, require
from bench._report import DISTURBED_CORES, short
from bench._standings import Standing, Versus, standings
from bench._targets import is_ours

__all__ = ["MissingError", "page", "require", "write", "write_growth"]

_CSS = """
:root { color-scheme: light dark; --line: #c8c8c8; --faint: #666; --warn: #fff3cd; --ours: #0b6e4f; }
@media (prefers-color-scheme: dark) { :root { --line: #444; --faint: #aaa; --warn: #4a3c00; --ours: #4fc99b; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { line-height: 1.2; } h2 { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: 1rem; }
table { border-collapse: collapse; font-size: .9rem; } .wide { overflow-x: auto; }
th, td { text-align: left; padding: .2rem .7rem .2rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.ours { color: var(--ours); font-weight: 600; }
figure { margin: 1rem 0; } figure svg { max-width: 100%; height: auto; font-family: system-ui, sans-serif; }
.warn { background: var(--warn); padding: .6rem 1rem; border-left: 4px solid currentColor; }
.answer { font-size: 1.05rem; } .faint { color: var(--faint); } code { overflow-wrap: anywhere; }
"""


def write(path: Path, data: Mapping[str, Any]) -> None:
    """Raises `MissingError` without matplotlib; then nothing is written."""
    text = page(data)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def write_growth(path: Path, data: Mapping[str, Any]) -> None:
    """The drawing of a growth run as a file for itself; it may raise as `write`."""
    names = _stored.labels(data)
    answers = [f"{kind.name}: {_growth.sentence(kind, names)}" for kind in _growth.kinds(data)]
    text = picture(data, names, alt=" ".join(answers))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def page(data: Mapping[str, Any]) -> str:
    body = _growth_body(data) if _growth.is_growth(data) else _suite_body(data)
    body += _circumstances(data, _stored.labels(data))
    inner = "\n".join(body)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>mpsteal, measured</title>\n<style>{_CSS}</style>\n</head>\n<body>\n<main>\n{inner}\n</main>\n"
        "</body>\n</html>\n"
    )


def _suite_body(data: Mapping[str, Any]) -> list[str]:
    found = standings(data)
    names = _stored.labels(data)
    body = [
        "<h1>Is mpsteal faster for my kind of job, and where is it not?</h1>",
        *_warnings(data),
        *_answer(found, names),
        *_families(found),
        _limits_of_all(data),
        '<nav aria-label="rows"><p>Rows: '
        + ", ".join(f'<a href="#row-{k}">{_text(standing.row["name"])}</a>' for k, standing in enumerate(found))
        + "</p></nav>",
    ]
    for number, standing in enumerate(found):
        body += _section(number, standing, names)
    return body


def _growth_body(data: Mapping[str, Any]) -> list[str]:
    names = _stored.labels(data)
    told = next((row["not_told"] for row in data["rows"] if row.get("not_told")), "")
    return [
        f"<h1>{_prose(data['rows'][0]['question'])}</h1>",
        *_warnings(data),
        *_growth_html.answer(data, names),
        _limits_of_all(data),
        *([f"<p>Not told: {_prose(told)}.</p>"] if told else []),
        *_growth_html.sections(data, names),
    ]


def _text(value: object) -> str:
    return html.escape(str(value))


def _prose(words: str) -> str:
    """Escaped, with what stands in backquotes as code."""
    return re.sub(r"(`{1,2})([^`]+)\1", r"<code>\2</code>", _text(words))


def _warnings(data: Mapping[str, Any]) -> list[str]:
    settings, lines = data["settings"], []
    if settings.get("control"):
        lines.append(
            "<strong>Control.</strong> The stock pool ran in the place of mpsteal: every difference below is what "
            "machine and method add by themselves, and says nothing of mpsteal."
        )
    if settings.get("quick"):
        lines.append("<strong>Quick run.</strong> Small sizes, to try the harness; start-up weighs too much in it.")
    if settings.get("rounds", 1) < 3:
        lines.append(f"<strong>{settings.get('rounds', 1)} round(s).</strong> Ranges of fewer than three tell little.")
    return [f'<p class="warn" role="note">{line}</p>' for line in lines]


def _answer(found: Sequence[Standing], names: Mapping[str, str]) -> list[str]:
    """What came out against the stock pool, against the best of the others, and against those with their best setting;
    gains, losses and draws by one rule."""
    lines = []
    for words, choose in (
        ("the stock pool", lambda standing: standing.versus_stock),
        ("the best of the other pools, with its defaults,", lambda standing: standing.versus_peer),
        ("the best pool whose caller knew the items and chose a chunk size", lambda standing: standing.versus_best),
        ("a plain loop without any pool", lambda standing: standing.versus_serial),
    ):
        compared = [(standing, versus) for standing in found if (versus := choose(standing)) is not None]
        if not compared:
            continue
        parts = []
        for verdict, word in (
            ("better", "better"),
            ("worse", "<strong>worse</strong>"),
            ("even", "without clear difference"),
        ):
            rows = [
                f"{_text(standing.row['name'])} ({_factor(versus)}{_against(versus, standing, names)})"
                for standing, versus in compared
                if versus.verdict == verdict
            ]
            if rows:
                parts.append(f"{word} in {len(rows)} of {len(compared)} rows: {', '.join(rows)}")
        lines.append(f"<li>Beside {words} mpsteal is {'; '.join(parts)}.</li>")
    lines += [
        f"<li><strong>mpsteal failed</strong> in {_text(standing.row['name'])}: {_text(standing.our_errors[0])}</li>"
        for standing in found
        if standing.our_errors
    ]
    if not lines:
        return ['<p class="answer">This run has no row with both mpsteal and another target: it has no answer.</p>']
    return ["<h2>Answer</h2>", f'<ul class="answer">{"".join(lines)}</ul>']


def _against(versus: Versus, standing: Standing, names: Mapping[str, str]) -> str:
    """Whom it was beside, where that is not the same for all rows."""
    fixed = (standing.versus_stock, standing.versus_serial)
    return "" if versus in fixed else f", {_text(names.get(versus.other, versus.other))}"


def _factor(versus: Versus) -> str:
    if versus.gain is None:
        return "by value"
    factor = versus.gain if versus.gain >= 1 else 1 / versus.gain
    return f"{short(factor)} times"


def _families(found: Sequence[Standing]) -> list[str]:
    """For each kind of job: what mpsteal takes of what the stock pool and the best other pool take."""
    lines = []
    for family in dict.fromkeys(standing.row["family"] for standing in found):
        mine = [standing for standing in found if standing.row["family"] == family]
        cells = [
            _over(versus for standing in mine if (versus := choose(standing)) is not None)
            for choose in (lambda s: s.versus_stock, lambda s: s.versus_peer, lambda s: s.versus_best)
        ]
        rows = ", ".join(_text(standing.row["name"]) for standing in mine)
        question = _prose(mine[0].row["question"])
        lines.append(
            f'<tr><th scope="row">{question}<br><span class="faint">{rows}</span></th>'
            + "".join(f'<td class="n">{cell}</td>' for cell in cells)
            + "</tr>"
        )
    if not lines:
        return []
    return [
        "<h2>By kind of job</h2>",
        "<p>How many times better mpsteal is: above 1 it wins, below 1 it loses. Median over the rows of a kind, and "
        "in brackets the range over their rounds.</p>",
        '<div class="wide"><table><thead><tr><th scope="col">kind of job</th><th scope="col" class="n">stock pool</th>'
        '<th scope="col" class="n">best other pool</th><th scope="col" class="n">best other, chunk size chosen</th>'
        f"</tr></thead><tbody>{''.join(lines)}</tbody></table></div>",
    ]


def _over(many: Iterable[Versus]) -> str:
    kept = [versus for versus in many if versus.gain is not None]
    if not kept:
        return "-"
    middle = statistics.median(versus.gain for versus in kept if versus.gain is not None)
    gains = [gain for versus in kept for gain in versus.gains]
    span = f" ({short(min(gains))}..{short(max(gains))})" if gains else ""
    return f"{short(middle)}{span}"


def _limits_of_all(data: Mapping[str, Any]) -> str:
    machine, settings = data["machine"], data["settings"]
    disturbed = sum(run["others_cores"] > DISTURBED_CORES for run in data["runs"])
    return (
        "<h2>Limits of all this</h2><p>One machine, one hour: "
        f"{_text(machine.get('processor'))}, {_text(settings.get('cores'))} cores used, Python "
        f"{_text(machine.get('python'))}, {_text(settings.get('rounds'))} round(s). Tasks are no-ops, spins, sleeps; "
        f"real ones share caches and do I/O. {disturbed} of {len(data['runs'])} runs were disturbed by other programs "
        f"(more than {DISTURBED_CORES} core). Only figures of one run may be compared. Each row has its own limits.</p>"
    )


def _section(number: int, standing: Standing, names: Mapping[str, str]) -> list[str]:
    row, figure = standing.row, standing.figure
    unit = f", {figure['unit']}" if figure["unit"] else ""
    caption = f"{figure['label']}{unit}; {figure['better']} is better"
    sentence = _sentence(standing, names)
    drawing = plot(standing, names, prefix=f"r{number}-", alt=f"{row['title']}. {caption}. {sentence}")
    lines = [
        f'<section aria-labelledby="row-{number}">',
        f'<h2 id="row-{number}">{_text(row["name"])}: {_prose(row["question"])}</h2>',
        f'<p class="answer">{_text(sentence)}</p>',
        f'<figure>{drawing}<figcaption class="faint">{_text(row["title"])}. {_text(caption)}. A dot is a round, the '
        "bar their range, the line their median.</figcaption></figure>"
        if drawing
        else '<p class="warn">No target came to an answer.</p>',
        *_table(standing, names),
    ]
    if row.get("not_told"):
        lines.append(f"<p><strong>Limits.</strong> Not told: {_prose(row['not_told'])}.</p>")
    return [*lines, "</section>"]


def _sentence(standing: Standing, names: Mapping[str, str]) -> str:
    """The row's answer, in words and numbers."""
    if standing.ours is None:
        why = f": {standing.our_errors[0]}" if standing.our_errors else ""
        return f"mpsteal has no answer here{why}."
    spread = standing.spreads[standing.ours]
    unit = f" {standing.figure['unit']}" if standing.figure["unit"] else ""
    parts = [f"{names.get(standing.ours, standing.ours)} came to {short(spread.median)}{unit}"]
    for versus in (standing.versus_stock, standing.versus_peer, standing.versus_best, standing.versus_serial):
        if versus is None:
            continue
        label = names.get(versus.other, versus.other)
        theirs = f"{label} to {short(standing.spreads[versus.other].median)}{unit}"
        span = ""
        if versus.gain is not None and len(versus.gains) > 1:
            gains = versus.gains if versus.gain >= 1 else [1 / gain for gain in versus.gains]
            span = f", {short(min(gains))} to {short(max(gains))} over the rounds"
        words = {"better": f"{_factor(versus)} better", "worse": f"{_factor(versus)} worse"}
        if versus.gain is None:
            words = {"better": "better", "worse": "worse"}
        side = words.get(versus.verdict, "no clear difference")
        parts.append(f"{theirs} (mpsteal: {side}{span})" if side in words.values() else f"{theirs} ({side}{span})")
    failed = [names.get(pool, pool) for pool in standing.failed]
    if failed:
        parts.append(f"without an answer: {', '.join(failed)}")
    return "; ".join(parts) + "."


def _table(standing: Standing, names: Mapping[str, str]) -> list[str]:
    """Every figure of the row for every target; the first one sorts."""
    figures = standing.row["figures"]
    titles = [", ".join(filter(None, (figure["label"], figure["unit"]))) for figure in figures]
    head = "".join(f'<th scope="col" class="n">{_text(title)}</th>' for title in titles)
    stock = standing.spreads.get("stock")
    lines = []
    for pool in standing.order + standing.failed:
        cell = standing.cells[pool]
        columns = []
        for figure in figures:
            spread = cell.spread(figure["key"])
            if spread is None:
                columns.append('<td class="n">-</td>')
                continue
            span = f" ({short(spread.low)}..{short(spread.high)})" if len(spread.samples) > 1 else ""
            columns.append(f'<td class="n">{short(spread.median)}{span}</td>')
        times = "-"
        mine = standing.spreads.get(pool)
        if mine and stock and standing.figure["has_ratio"] and stock.median > 0:
            times = short(mine.median / stock.median)
        errors = f"{len(cell.errors)} failed: {_text(cell.errors[0])}" if cell.errors else ""
        kind = ' class="ours"' if is_ours(pool) else ""
        label = _text(names.get(pool, pool))
        lines.append(
            f'<tr{kind}><th scope="row">{label}</th>{"".join(columns)}<td class="n">{times}</td><td>{errors}</td></tr>'
        )
    return [
        '<div class="wide"><table><thead><tr><th scope="col">target</th>'
        f'{head}<th scope="col" class="n">x stock</th><th scope="col">errors</th></tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    ]


def _circumstances(data: Mapping[str, Any], names: Mapping[str, str]) -> list[str]:
    def pairs(values: Mapping[str, Any]) -> str:
        rows = "".join(
            f'<tr><th scope="row">{_text(key)}</th><td>{_text(_flat(value))}</td></tr>' for key, value in values.items()
        )
        return f'<div class="wide"><table><tbody>{rows}</tbody></table></div>'

    disturbed = [run for run in data["runs"] if run["others_cores"] > DISTURBED_CORES]
    listed = "".join(
        f"<tr><td>{_text(run['row'])}</td><td>{_text(names.get(run['pool'], run['pool']))}</td>"
        f'<td class="n">{run["round"] + 1}</td><td class="n">{short(run["others_cores"])}</td></tr>'
        for run in disturbed
    )
    lines = ["<h2>Machine</h2>", pairs(data["machine"]), "<h2>Versions</h2>"]
    lines.append(pairs({target["label"]: target["version"] for target in data["targets"]}))
    lines += ["<h2>Settings and command</h2>", f"<p><code>{_text(data.get('command', ''))}</code></p>"]
    lines += [f"<p>Made {_text(data['made'])}.</p>", pairs(data["settings"]), "<h2>Skipped</h2>"]
    skipped = {line["target"]: line["why"] for line in data["skipped"]}
    lines.append(pairs(skipped) if skipped else "<p>Nothing.</p>")
    lines += [
        "<h2>How it is measured</h2>",
        "<p>Each row, target and round is a process of its own, one at a time, confined to the cores said above. In a "
        "round every row is measured with every target; then the next round begins. Agents are warm before the clock "
        "starts, except where starting is measured. Every result is compared with the serial answer; a wrong one, or "
        "none within the time limit, fails the run. The median over the rounds counts, its range is shown, and a ratio "
        "is taken within a round.</p>",
        f"<h2>Disturbed runs</h2><p>{len(disturbed)} of {len(data['runs'])}: other programs used more than "
        f"{DISTURBED_CORES} core meanwhile.</p>",
    ]
    if disturbed:
        lines.append(
            '<div class="wide"><table><thead><tr><th scope="col">row</th><th scope="col">target</th>'
            f'<th scope="col" class="n">round</th><th scope="col" class="n">cores</th></tr></thead><tbody>{listed}'
            "</tbody></table></div>"
        )
    return lines


def _flat(value: object) -> str:
    return ", ".join(str(item) for item in value) if isinstance(value, (list, tuple)) else str(value)
