"""`python -m bench report RUN.json --html PATH`: the report of a stored run of the suite, or of `growth`.

With `--svg DIR`, the drawing of a growth run alone, as `DIR/growth.svg`: docs/explanation/growth.svg is made so. See
`_html` for what they show. Needs matplotlib, from the extra `bench`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench import _growth, _html, _stored


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN.json", help="what --json of a run of the suite has written")
    parser.add_argument("--html", type=Path, metavar="PATH", help="write the report there")
    parser.add_argument("--svg", type=Path, metavar="DIR", help="of a growth run: write its drawing there, growth.svg")


def run(args: argparse.Namespace) -> int:
    """Return 0; 2 if there is nothing to write, the file cannot be read, or matplotlib is missing."""
    written = []
    try:
        if args.html is None and args.svg is None:
            raise _stored.UnreadableError("nothing to write: --html PATH or --svg DIR")
        data = _stored.read(args.run)
        if args.svg is not None and not (_growth.is_growth(data) and _growth.kinds(data)):
            raise _stored.UnreadableError(f"{args.run}: --svg is for runs of growth, with answers")
        if args.html is not None:
            _html.write(args.html, data)
            written.append(args.html)
        if args.svg is not None:
            _html.write_growth(args.svg / "growth.svg", data)
            written.append(args.svg / "growth.svg")
    except (_stored.UnreadableError, _html.MissingError) as error:
        print(f"bench report: {error}", file=sys.stderr)
        return 2
    for path in written:
        print(f"written: {path}")
    return 0
