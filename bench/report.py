"""`python -m bench report RUN.json --html PATH`: the report of a stored run of the suite.

See `_html` for what it shows. Needs matplotlib, from the extra `bench`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench import _html, _stored


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN.json", help="what --json of a run of the suite has written")
    parser.add_argument("--html", type=Path, required=True, metavar="PATH", help="write the report there")


def run(args: argparse.Namespace) -> int:
    """Return 0; 2 if the file cannot be read or matplotlib is missing."""
    try:
        _html.write(args.html, _stored.read(args.run))
    except (_stored.UnreadableError, _html.MissingError) as error:
        print(f"bench report: {error}", file=sys.stderr)
        return 2
    print(f"written: {args.html}")
    return 0
