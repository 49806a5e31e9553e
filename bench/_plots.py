"""The drawing of a row: a line for each target, a dot for each round, as SVG that stands inside a page.

Text stays text, so that it can be found, read aloud and shown in the page's own letters. Dark ink is written as
`currentColor`, so that the drawing follows a dark page. Needs matplotlib, which is imported for the first one.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Mapping

from bench._report import short
from bench._standings import Standing
from bench._targets import INSTALL, is_ours

INK, OURS, OTHERS = "#010203", "#12936b", "#6f7f95"
"""INK is a colour that nothing else has: it is replaced by `currentColor`."""
DECADE = 10.0
"""From this spread on the axis is logarithmic: on a linear one the small values could no longer be told apart."""


SETTINGS = {"svg.fonttype": "none", "svg.hashsalt": "mpsteal", "text.parse_math": False}
METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
"""The same run is drawn with the same bytes: no date, and ids that are not drawn by lot."""


class MissingError(Exception):
    """matplotlib is not installed; the message says what brings it."""


def require() -> None:
    """Raises `MissingError` unless drawings can be made: to be asked before hours of measuring."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise MissingError(f"the report needs matplotlib: {INSTALL} ({error})") from None


def plot(standing: Standing, names: Mapping[str, str], *, prefix: str, alt: str) -> str:
    """Best on top. Targets without an answer stand below, named as such. Empty if none has an answer.

    Args:
        prefix: what the ids of this drawing start with; a page has many.
        alt: what it shows, in words.
    """
    require()
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter

    if not standing.order:
        return ""
    pools = standing.order + standing.failed
    values = [value for pool in standing.order for value in standing.spreads[pool].samples]
    is_log = min(values) > 0 and max(values) / min(values) > DECADE
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(8.6, 0.7 + 0.3 * len(pools)))
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        if is_log:
            axes.set_xscale("log")
        for place, pool in enumerate(pools):
            if pool in standing.failed:
                axes.text(
                    0.01,
                    place,
                    "no answer",
                    transform=axes.get_yaxis_transform(),
                    va="center",
                    color=INK,
                    style="italic",
                )
                continue
            spread = standing.spreads[pool]
            colour = OURS if is_ours(pool) else OTHERS
            axes.plot([spread.low, spread.high], [place, place], color=colour, linewidth=5, alpha=0.35)
            axes.plot(spread.samples, [place] * len(spread.samples), "o", color=colour, markersize=4.5)
            axes.plot([spread.median], [place], "|", color=colour, markersize=15, markeredgewidth=2.5)
        axes.set_yticks(range(len(pools)), [names.get(pool, pool) for pool in pools])
        axes.set_ylim(len(pools) - 0.4, -0.6)
        if not is_log:
            low, high = axes.get_xlim()
            axes.set_xlim(min(0.0, low), high)  # from nothing on, so that lengths can be compared
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value) if value else "0"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        for label, pool in zip(axes.get_yticklabels(), pools, strict=True):
            label.set_color(OURS if is_ours(pool) else INK)
        unit = standing.figure["unit"]
        axes.set_xlabel(
            f"{standing.figure['label']}{f', {unit}' if unit else ''}{', log scale' if is_log else ''}", color=INK
        )
        axes.tick_params(axis="x", colors=INK)
        axes.tick_params(axis="y", color=INK)
        axes.grid(visible=True, axis="x", color="#999999", alpha=0.35, linewidth=0.6)
        axes.set_axisbelow(True)
        for side, spine in axes.spines.items():
            spine.set_visible(side == "bottom")
            spine.set_color(INK)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, bbox_inches="tight", metadata=METADATA)
    return inline(out.getvalue(), prefix, alt)


def inline(svg: str, prefix: str, alt: str) -> str:
    """What matplotlib wrote, without its head, as an image with a text alternative; its ids start with `prefix`."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL).replace(INK, "currentColor")
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    svg = re.sub(r'href="#', f'href="#{prefix}', svg)
    svg = re.sub(r"url\(#", f"url(#{prefix}", svg)
    words = html.escape(alt)
    return svg.replace("<svg", f'<svg role="img" aria-label="{words}"', 1).strip()
