"""Makes `docs/reference/api.md` from the signatures and docstrings of all that `mpsteal` exports.

python docs/api_reference.py           print it
python docs/api_reference.py --write   put it where it belongs

A test checks that the page holds exactly what this file makes, so what it says is what the code says.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mpsteal

PAGE = Path(__file__).resolve().parent / "reference" / "api.md"

HEAD = """\
# The API, name by name

Made from the code by `python docs/api_reference.py --write`: every name that `mpsteal` exports, with its docstring.
How things belong together is told in the pages beside this one: [pool.md](pool.md), [scheduler.md](scheduler.md),
[errors.md](errors.md).
"""

GROUPS: tuple[tuple[str, Callable[[Any], bool]], ...] = (
    ("Classes", lambda it: inspect.isclass(it) and not issubclass(it, BaseException)),
    ("Functions", inspect.isroutine),
    ("Errors and warnings", lambda it: inspect.isclass(it) and issubclass(it, BaseException)),
)

MADE_BY_POOLS = (
    "AsyncIMapIterator",
    "AsyncResult",
    "ChildMapResult",
    "ChildResult",
    "TaskPool",
    "IMapIterator",
    "IMapUnorderedIterator",
    "MapResult",
)
"""What nobody but a pool makes: their constructors are not told."""

FOR_ENGINE = ("deliver", "input_ended", "items_of", "pieces")
"""Methods without an underscore that only the engine calls."""

SECTION = re.compile(r"^(Args|Returns|Raises|Attributes|Yields):$", re.MULTILINE)


def page() -> str:
    """The whole page."""
    lines = [HEAD]
    for title, belongs in GROUPS:
        lines.append(f"## {title}\n")
        for name in sorted(mpsteal.__all__):
            it = getattr(mpsteal, name)
            if belongs(it):
                lines += entry(name, it)
    return "\n".join(lines).rstrip() + "\n"


def entry(name: str, it: Any) -> Iterator[str]:
    """One exported name."""
    yield f"### `{name}`\n"
    if not inspect.isclass(it):
        yield f"```text\n{name}{signature(it)}\n```\n"
        yield text_of(it)
        return
    if not issubclass(it, BaseException) and name not in MADE_BY_POOLS:
        yield f"```text\n{name}{signature(it.__init__, bound=True)}\n```\n"
    yield text_of(it)
    for method, function in methods(it):
        if isinstance(function, property):
            yield f"**`.{method}`**\n"
            yield text_of(function)
        else:
            is_async = "async " if inspect.iscoroutinefunction(function) else ""
            yield f"**`{is_async}.{method}{signature(function, bound=True)}`**\n"
            yield text_of(function)


def methods(cls: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties of this package, in alphabetical order, without what is for its engine."""
    for name in sorted(dir(cls)):
        it = inspect.getattr_static(cls, name)
        where = it.fget if isinstance(it, property) else it
        if name.startswith("_") or name in FOR_ENGINE or not inspect.isfunction(where) or not it.__doc__:
            continue
        if where.__module__.startswith("mpsteal") and not where.__doc__.startswith("Not for users"):
            yield name, it


def signature(function: Any, *, bound: bool = False) -> str:
    """Parameters with their annotations as they are written in the code."""
    parameters = list(inspect.signature(function).parameters.values())
    parts: list[str] = []
    seen_star = False
    for parameter in parameters[bound:]:
        if parameter.kind is parameter.KEYWORD_ONLY and not seen_star:
            parts.append("*")
            seen_star = True
        prefix = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        seen_star = seen_star or prefix == "*"
        part = prefix + parameter.name
        if parameter.annotation is not parameter.empty:
            part += f": {parameter.annotation}"
        if parameter.default is not parameter.empty:
            part += f" = {parameter.default!r}"
        parts.append(part)
    returns = inspect.signature(function).return_annotation
    arrow = "" if returns is inspect.Signature.empty or function.__name__ == "__init__" else f" -> {returns}"
    return re.sub(r"\b_(?=[A-Z])", "", f"({', '.join(parts)}){arrow}")  # type variables are private names


def text_of(it: Any) -> str:
    """A docstring as Markdown: the lists of its sections become lists there."""
    lines: list[str] = []
    in_section = False
    for line in inspect.cleandoc(it.__doc__ or "").splitlines():
        if SECTION.match(line):
            in_section = True
            lines += [f"*{line}*", ""]
        elif in_section and line.startswith("    ") and not line.startswith("     "):
            names, colon, meaning = line.strip().partition(": ")
            lines.append(f"- {names}: {meaning}" if colon else f"- {line.strip()}")
        elif in_section and line.startswith("     "):
            lines.append(f"  {line.strip()}")
        else:
            in_section = in_section and not line
            lines.append(line)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(page())
    else:
        sys.stdout.write(page())
