"""The tables in `mpsteal/_queue/README.md` say what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from generators import load_generator

from mpsteal._queue import layout as L

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "mpsteal" / "_queue" / "README.md").read_text()

NOT_WORDS = {
    # sizes and values; the offset of the rings, which the README gives as a formula
    *("HEADER_WORDS", "MAGIC_VALUE", "LEVELS_AT", "NONE", "INT_LIMIT", "SLOT_WORDS", "FUNCTION_WORDS", "MASK_BITS"),
    # states
    *("VACANT", "STARTING", "READY", "LEAVING", "INIT_FAILED"),
    # flags of a chunk's slot
    *("KIND_CALL", "KIND_CALL_KWDS", "KIND_MAP", "KIND_STARMAP", "KIND_INT", "KIND_TWO_INTS", "KIND_MASK", "IN_BLOCK"),
    *("APART", "TIMED", "ITEMWISE", "FIRST_ONLY", "LEAVE_WHEN_IDLE", "LEAVE_NOW", "INLINE_FUNCTION"),
    *("CLASS_SHIFT", "FLAGS_MASK"),
    *("NO_PLACE", "CHILDREN", "CHILDREN_USED"),
}


def rows() -> list[tuple[int, int, str]]:
    """(word, byte, name) of every row of every table."""
    found = re.findall(r"^\| (\d+) \| (\d+) \| `([A-Z_]+)` \|", TEXT, re.MULTILINE)
    return [(int(word), int(byte), name) for word, byte, name in found]


@pytest.mark.parametrize(("word", "byte", "name"), rows(), ids=[name for *_, name in rows()])
def test_row_has_the_offsets_of_the_code(word: int, byte: int, name: str) -> None:
    assert word == getattr(L, name)
    assert byte == 8 * word


def test_every_word_of_the_layout_has_a_row() -> None:
    in_code = {name for name, value in vars(L).items() if name.isupper() and type(value) is int}
    assert in_code - NOT_WORDS == {name for *_, name in rows()}


def test_tables_are_what_the_generator_makes() -> None:
    assert load_generator("layout_table").fill(TEXT) == TEXT, "run: python docs/layout_table.py --write"


def test_numbers_in_the_text_are_those_of_the_code() -> None:
    text = " ".join(TEXT.split())
    assert f"{L.HEADER_WORDS} words of header" in text
    assert f"word {L.LEVELS_AT} on" in text
    geometry = L.Geometry(slots=2)
    for field in ("entries", "page_chunks", "pages", "functions"):
        assert f"`{field}` = {getattr(geometry, field):,}" in text
    for field in ("page_bytes", "ring_bytes"):
        assert f"`{field}` = {getattr(geometry, field) // 1024:,} KiB" in text
    assert f"{L.Layout(geometry).mapped_bytes / 2**20:.0f} MiB" in text


def test_invariants_are_numbered_without_gaps() -> None:
    numbers = [int(n) for n in re.findall(r"^- \*\*D-(\d+)\*\*", TEXT, re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))
    cited = set(re.findall(r"D-(\d+)", (ROOT / "mpsteal" / "_queue" / "deque.py").read_text()))
    assert {int(n) for n in cited} <= set(numbers)
