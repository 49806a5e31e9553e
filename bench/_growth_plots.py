"""The drawings of a run of `growth`: a line for each target, for a page or as a file for itself.

A bar is the range over the rounds, a dot the median. Both axes are logarithmic, so that a line that is flat costs the
same for each task however many there are; that of makespan over bound has a linear one, with the bound as a line. What
sets the lines apart is not colour alone. Needs matplotlib.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from bench._growth import Kind, count, kinds
from bench._plots import DECADE, INK, METADATA, SETTINGS, inline, require
from bench._report import short
from bench._targets import TARGETS, is_ours

_DOORS = ("#12936b", "#0a5fb4", "#8a4fbf")
_OTHERS = "#7d8794"
_MARKERS, _DASHES = "os^Dv<>P", ("--", ":", "-.")
_PAPER, _PEN = "#ffffff", "#24292f"
"""Of a file for itself, which cannot know the page that shows it."""


def plot(kind: Kind, names: Mapping[str, str], *, prefix: str, alt: str) -> str:
    """Inline SVG, as `bench._plots.plot`."""
    require()
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(8.6, 4.2))
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        _draw(axes, kind, names)
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, labelcolor=INK)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, bbox_inches="tight", metadata=METADATA)
    return inline(out.getvalue(), prefix, alt)


def picture(data: Mapping[str, Any], names: Mapping[str, str], alt: str) -> str:
    """All kinds side by side, as an SVG file. The same run gives the same bytes with the same matplotlib."""
    require()
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    found = kinds(data)
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(10, 4.0 * -(-len(found) // 2) + 0.6), layout="constrained")
        FigureCanvasSVG(figure)
        entries: dict[str, Any] = {}
        for place, kind in enumerate(found):
            axes = figure.add_subplot(-(-len(found) // 2), min(2, len(found)), place + 1)
            _draw(axes, kind, names)
            axes.set_title(kind.name, color=INK, loc="left", fontweight="bold")
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
                entries.setdefault(label, handle)
        figure.legend(
            entries.values(), entries.keys(), loc="outside lower center", ncols=5, frameon=False, labelcolor=INK
        )
        out = io.StringIO()
        figure.savefig(out, format="svg", facecolor=_PAPER, metadata=METADATA)
    return inline(out.getvalue(), "growth-", alt).replace("currentColor", _PEN) + "\n"


def _draw(axes: Any, kind: Kind, names: Mapping[str, str]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

    for curve in kind.curves:
        mine = is_ours(curve.target)
        alike = [name for name in TARGETS if is_ours(name) == mine]  # all of them: a target looks the same in all kinds
        place = alike.index(curve.target) if curve.target in alike else len(alike)
        colour = _DOORS[place % len(_DOORS)] if mine else _OTHERS
        sizes = [size for size, _ in curve.spreads()]
        spreads = [spread for _, spread in curve.spreads()]
        axes.vlines(sizes, [s.low for s in spreads], [s.high for s in spreads], color=colour, linewidth=5, alpha=0.35)
        axes.plot(
            sizes,
            [spread.median for spread in spreads],
            color=colour,
            marker=_MARKERS[place % len(_MARKERS)],
            linestyle="-" if mine else _DASHES[place % len(_DASHES)],
            linewidth=2.2 if mine else 1.5,
            markersize=5,
            label=names.get(curve.target, curve.target),
            zorder=3 if mine else 2,
        )
    values = [value for curve in kind.curves for _, spread in curve.spreads() for value in spread.samples]
    axes.set_xscale("log")
    is_log = min(values) > 0 and (not kind.is_agents or max(values) / min(values) > DECADE)
    if is_log:
        axes.set_yscale("log")
        _keep_a_decade(axes, values)
    else:
        axes.set_ylim(0, 1.08 * max(1.0, *values))
    if kind.is_agents:
        axes.axhline(1, color=INK, linewidth=0.8)
    axes.xaxis.set_major_locator(FixedLocator(sorted({size for curve in kind.curves for size in curve.rounds})))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: count(round(value))))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value) if value else "0"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(f"{kind.over}, log scale", color=INK)
    axes.set_ylabel(f"{kind.caption}{', log scale' if is_log else ''}", color=INK)
    axes.tick_params(colors=INK, which="both")
    axes.grid(visible=True, color="#999999", alpha=0.35, linewidth=0.6)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("bottom", "left"))
        spine.set_color(INK)


def _keep_a_decade(axes: Any, values: Sequence[float]) -> None:
    """A whole decade at least, so that noise does not look like a slope."""
    low, high = min(values) / 1.3, max(values) * 1.3
    if high / low < DECADE:
        middle = (low * high) ** 0.5
        low, high = middle / DECADE**0.5, middle * DECADE**0.5
    axes.set_ylim(low, high)
