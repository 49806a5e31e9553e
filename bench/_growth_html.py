"""What the page of a stored run of `growth` says: for each kind question, answer, drawing and limits; then all figures.

`_html` frames it. All sentences are computed by `_growth`.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

from bench import _growth, _suite_table
from bench._growth import Kind
from bench._growth_plots import plot
from bench._targets import is_ours


def answer(data: Mapping[str, Any], names: Mapping[str, str]) -> list[str]:
    """The answers of all kinds, and where mpsteal failed."""
    lines = [
        f"<li><strong>{kind.name}.</strong> {html.escape(_growth.sentence(kind, names))}</li>"
        for kind in _growth.kinds(data)
    ]
    errors = {run["row"]: run["error"] for run in reversed(data["runs"]) if run["error"] and is_ours(run["pool"])}
    lines += [
        f"<li><strong>mpsteal failed</strong> in {html.escape(row)}: {html.escape(errors[row])}</li>"
        for row in (row["name"] for row in data["rows"])
        if row in errors
    ]
    if not lines:
        return ['<p class="answer">Nothing in this run came to an answer.</p>']
    return ["<h2>Answer</h2>", "<p>Flat is the goal: 1.00.</p>", f'<ul class="answer">{"".join(lines)}</ul>']


def sections(data: Mapping[str, Any], names: Mapping[str, str]) -> list[str]:
    lines: list[str] = []
    for number, kind in enumerate(_growth.kinds(data)):
        lines += _section(number, kind, names)
    return [*lines, *_grid(data)]


def _section(number: int, kind: Kind, names: Mapping[str, str]) -> Sequence[str]:
    sentence = _growth.sentence(kind, names)
    question = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(kind.question))
    caption = f"{kind.caption}, over the number of {kind.over}"
    drawing = plot(kind, names, prefix=f"g{number}-", alt=f"{kind.question} {caption}. {sentence}")
    return (
        f'<section aria-labelledby="kind-{number}">',
        f'<h2 id="kind-{number}">{kind.name}: {question}</h2>',
        f'<p class="answer">{html.escape(sentence)}</p>',
        f'<figure>{drawing}<figcaption class="faint">{html.escape(caption)}. A dot is the median of the rounds, the '
        "bar their range.</figcaption></figure>",
        f"<p><strong>Limits.</strong> {kind.limits}.</p>",
        "</section>",
    )


def _grid(data: Mapping[str, Any]) -> list[str]:
    """The table of the terminal, with the medians."""
    (_, _, *labels), *rows = _suite_table.grid_cells(data)
    if not rows:
        return []
    pools = _suite_table.grid_pools(data)
    kinds = [' class="n ours"' if is_ours(pool) else ' class="n"' for pool in pools]

    def cells(values: Sequence[str], tag: str, more: str = "") -> str:
        return "".join(
            f"<{tag}{more}{kind}>{html.escape(value)}</{tag}>" for kind, value in zip(kinds, values, strict=True)
        )

    head = cells(labels, "th", ' scope="col"')
    body = "".join(
        f'<tr><th scope="row">{html.escape(name)}</th><td>{html.escape(figure)}</td>{cells(values, "td")}</tr>'
        for name, figure, *values in rows
    )
    return [
        "<h2>All figures</h2>",
        "<p>Medians over the rounds.</p>",
        '<div class="wide"><table><thead><tr><th scope="col">row</th><th scope="col">figure</th>'
        f"{head}</tr></thead><tbody>{body}</tbody></table></div>",
    ]
