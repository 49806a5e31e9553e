"""Prints the layout tables of `mpsteal/_queue/README.md` from the constants of `mpsteal/_queue/layout.py`.

python docs/layout_table.py           print them
python docs/layout_table.py --write   put them in the README, between its markers

Who writes and reads a word is told here, by hand; where it lies is read from the code. A test checks
that the README holds exactly what this file makes, and that no word of the layout is missing.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

from _markers import fill_between

from mpsteal._queue import layout as L

README = Path(__file__).resolve().parents[1] / "mpsteal" / "_queue" / "README.md"


class Field(NamedTuple):
    """One shared word: its name in `layout.py`, and what a reader of the table wants to know."""

    name: str
    meaning: str
    writers: str
    readers: str
    lock: str


HEADER = (
    Field("MAGIC", 'marks a segment, "mpsteal1"', "parent, once", "people with a debugger", "none"),
    Field("STOP", "0: go on, 1: leave when idle, 2: leave now", "parent", "agents", "none, then a ring"),
    Field("SLOTS_USED", "1 + the highest slot that ever had an agent", "parent", "agents", "none"),
    Field(
        "NESTED",
        "0; where tasks have submitted tasks 1, and as much more as there are of those with no agent",
        "parent",
        "agents",
        "none, fence",
    ),
    Field("FEW", "1: chunks are short, and agents wake nobody", "parent", "agents", "none"),
    Field("RING_AFTER_NS", "how long busy agents let results lie before they ring (ns)", "parent", "agents", "none"),
    Field("LOOKED_NS", "when the parent last looked at all rings (monotonic clock, ns)", "parent", "agents", "none"),
    Field(
        "LINGERERS",
        "from here to the end of the header: processes that have left their slots and are still there; 0: none",
        "parent",
        "Manager",
        "none",
    ),
)

AGENT = (
    Field(
        "CLAIM",
        "number of the chunk started last, or about to be; -1: none",
        "owner; parent, when it settles a death",
        "parent, thief",
        "none, mark and fence",
    ),
    Field(
        "CLAIM_AT",
        "word of the range it is from: does its `lo` equal the claim, it does not count",
        "owner",
        "parent",
        "own",
    ),
    Field("STARTED_NS", "when it started (monotonic clock, ns)", "agent", "parent", "none"),
    Field(
        "LOADED",
        "the last chunk whose slot and payload it has read",
        "agent; parent, when it settles a death",
        "parent",
        "none",
    ),
    Field("RESULT_TAIL", "bytes committed to the result ring, ever", "agent", "parent", "none"),
    Field(
        "DONE",
        "chunks finished, ever",
        "agent, before it rings; parent, when it settles a death",
        "parent, Manager",
        "none",
    ),
    Field(
        "LEASES_ENDED",
        "how often this slot's agents have cleared an entry of their table of leases, ever",
        "agent, after the entry",
        "parent",
        "none",
    ),
    Field("BUSY_NS", "time spent in tasks (ns)", "agent, before it rings", "parent, Manager", "none"),
    Field("REPLY_HEAD", "bytes read from the reply ring, ever", "agent; parent, after a death", "parent", "none"),
    Field("RESULT_HEAD", "bytes read from the result ring, ever", "parent", "agent", "none"),
    Field("BLOCKS_FREED", "blocks of results given back, ever", "parent", "agent", "none"),
    Field(
        "LEAVE",
        "1: finish what is queued here, then leave; 2: leave after the task at hand, a spare takes the queue over",
        "parent",
        "agent",
        "none, then a ring",
    ),
    Field(
        "HELD",
        "1 + the highest level of what the parent would hand to this agent; 0: nothing",
        "parent",
        "agent",
        "none, fence",
    ),
    Field("NEWS", "grows with every push to this agent and every change of HELD", "parent", "agent", "none"),
    Field("REPLY_TAIL", "bytes committed to the reply ring, ever", "parent", "agent", "none"),
    Field(
        "PARKED",
        "1 while it waits at its doorbell",
        "agent; parent between two processes of a slot",
        "parent, agents, Manager",
        "none, fence",
    ),
    Field("RING_FULL", "1 while it waits for room in its ring", "agent", "parent", "none, fence"),
    Field(
        "STATE",
        "0 empty, 1 starting, 2 ready, 3 leaving, 4 initializer failed",
        "agent; parent between two processes of a slot",
        "parent, Manager",
        "none",
    ),
    Field(
        "PID",
        "process number; 0: none yet",
        "agent; parent resets it",
        "parent, Manager",
        "none",
    ),
    Field(
        "SPARE_PID",
        "process that waits to take the slot over; 0: none",
        "spare, 0 when it is the agent; parent resets it",
        "parent, Manager",
        "none",
    ),
    Field("SPARE_UP", "1: its initializer has run", "spare; parent resets it", "parent", "none, then a ring"),
    Field(
        "WAITS",
        "1 + depth of the task in which it waits for a child; 1 also while it is parked; 0: it waits for nothing",
        "agent; parent between two processes of a slot",
        "parent, agents",
        "none, fence; the parent hands out under own",
    ),
    Field(
        "MARK",
        "1 + slot of the thief inside a section, 1 + all slots: the parent, in a cancel; 0: clean",
        "thief, parent, repairer",
        "all",
        "own; the owner looks without",
    ),
    Field(
        "J_VICTIM",
        "journal: 1 + slot of the victim; 0: no journal",
        "thief, repairer",
        "repairer",
        "own",
    ),
    Field("J_ENTRY", "journal: word of the victim's range", "thief", "repairer", "own"),
    Field("J_MID", "journal: first chunk that moves", "thief", "repairer", "own"),
    Field("J_HI", "journal: end of what moves", "thief", "repairer", "own"),
    Field("J_LEVEL", "journal: its priority level", "thief", "repairer", "own"),
    Field(
        "SPENT", "entries before this count are empty; of one level alone", "owner, thief", "all", "own; read without"
    ),
    Field("LOOT_LO", "first chunk of what it stole", "owner, repairer", "all", "own; its next chunk without"),
    Field("LOOT_HI", "its end; the range is `[lo, hi)`", "owner, thief, repairer, parent", "all", "own; read without"),
    Field("LOOT_LEVEL", "its priority level", "owner, repairer", "all", "own"),
    Field("STEALS", "rounds of stealing that ended with work", "agent", "parent, Manager", "none"),
    Field("STEALS_FAILED", "rounds that found nothing", "agent", "parent, Manager", "none"),
    Field("CHUNKS_STOLEN", "chunks it took from others", "agent", "parent, Manager", "own"),
    Field("STOLEN_FROM", "chunks that others took", "thief", "parent, Manager", "own"),
    Field("REPAIRS", "half-done steals mended at this agent", "repairer", "parent, Manager", "own"),
)

SLOT = (
    Field(
        "SLOT_OFFSET",
        "where the payload starts (byte of the file); with bit 3 or 4 the argument itself",
        "parent",
        "agents",
        "none",
    ),
    Field("SLOT_SIZE", "its length (bytes); with bit 4 the second argument", "parent", "agents", "none"),
    Field("SLOT_FUNCTION", "the function's number; -1: in the payload", "parent", "agents", "none"),
    Field(
        "SLOT_FLAGS",
        "bits 0-1: kind of call; bit 2: in a block; bit 3: one small int, bit 4: two; bit 5: items with a time limit; "
        "bit 6: buffers apart; from bit 8 on: its class",
        "parent",
        "agents",
        "none",
    ),
)

TABLES = {"header": HEADER, "agent": AGENT, "slot": SLOT}
"""Offsets count from the start of the segment, of the agent, of the chunk's slot."""


def make_table(fields: tuple[Field, ...]) -> str:
    """A Markdown table, offsets from the code."""
    lines = [
        "| word | byte | name | meaning | written by | read by | lock |",
        "| ---: | ---: | --- | --- | --- | --- | --- |",
    ]
    for field in fields:
        word = getattr(L, field.name)
        cells = (
            str(word),
            str(8 * word),
            f"`{field.name}`",
            field.meaning,
            field.writers,
            field.readers,
            field.lock,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def fill(text: str) -> str:
    """The README's text with every table made anew."""
    for name, fields in TABLES.items():
        text = fill_between(text, f"<!-- table: {name} -->", f"<!-- end: {name} -->", make_table(fields))
    return text


if __name__ == "__main__":
    if "--write" in sys.argv:
        README.write_text(fill(README.read_text()))
    else:
        for title, rows in TABLES.items():
            sys.stdout.write(f"{title}\n\n{make_table(rows)}\n\n")
