"""What the programs of this folder share: putting what they make into a page, between its markers."""

from __future__ import annotations


def fill_between(text: str, begin: str, end: str, made: str) -> str:
    """The text with what stands between the two markers, on lines of their own, made anew.

    Raises ValueError if the first marker is not there once, IndexError if the second does not follow.
    """
    before, rest = text.split(begin)
    return f"{before}{begin}\n{made}\n{end}{rest.split(end)[1]}"
