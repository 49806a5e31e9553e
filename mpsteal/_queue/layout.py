"""Where every shared word lives. Pure arithmetic: no memory is touched here.

All words are int64, 8-byte aligned, written by one store. Offsets named `*_word` count words from the start of the
segment, those named `*_byte` count bytes. README.md beside this file has the table with the writers.

    | header | agent 0 .. agent n-1 | functions | classes | leases | slots | slabs | rings | replies | .. blocks
"""

from __future__ import annotations

from typing import NamedTuple

# Header words.
MAGIC, STOP = 0, 1
SLOTS_USED = 2  # by the parent, when an agent is added
NESTED = 3  # by the parent, once: tasks of this pool submit tasks
FEW = 4  # by the parent: agents ring nobody
RING_AFTER_NS, LOOKED_NS = 8, 9  # by the parent, often; a line of their own
LINGERERS = 16  # to the end of the header: processes that have left their slots and are still there, 0: none
HEADER_WORDS = 64
MAGIC_VALUE = 0x6D70_7374_6561_6C31  # "mpsteal1"

# Words of an agent, from its base. Lines of 8 words (64 bytes) keep writers apart.
CLAIM, STARTED_NS, RESULT_TAIL, DONE, BUSY_NS, LOADED, CLAIM_AT = 0, 1, 2, 3, 4, 5, 6  # written by the agent
LEASES_ENDED = 7  # the same
RESULT_HEAD, BLOCKS_FREED, LEAVE, HELD, NEWS, REPLY_TAIL = 8, 9, 10, 11, 12, 13  # written by the parent
PARKED, RING_FULL, STATE, PID = 16, 17, 18, 19  # written by the agent (the parent resets them between agents)
SPARE_PID, SPARE_UP = 20, 21  # written by the process that is to be the next agent (the parent resets them)
WAITS, REPLY_HEAD = 22, 23  # written by the agent (the parent resets them)
MARK, J_VICTIM, J_ENTRY, J_MID, J_HI, J_LEVEL = 24, 25, 26, 27, 28, 29  # under the lock
SPENT = 30  # the same
LOOT_LO, LOOT_HI, LOOT_LEVEL = 32, 33, 34  # under the lock, but that the owner moves `lo` without
STEALS, STEALS_FAILED, CHUNKS_STOLEN, STOLEN_FROM, REPAIRS = 40, 41, 42, 43, 44
LEVELS_AT = 48  # then HEAD, TAIL per level, then the entries

NONE = -1
# Where CLAIM_AT points if a claim is from no range: to a word that no chunk's number equals.
NO_PLACE = MAGIC

# What NESTED says where tasks submit tasks; and as much more as there are of those with no agent, so who is idle rings.
CHILDREN_USED = 1

# Numbers of what tasks have submitted, from here on. They have no slot and no page.
CHILDREN = 1 << 60

# What LEAVE says: when you have nothing to do; after what you run, a spare takes your queue over.
LEAVE_WHEN_IDLE, LEAVE_NOW = 1, 2

# States of an agent.
VACANT, STARTING, READY, LEAVING, INIT_FAILED = 0, 1, 2, 3, 4

# Words of a chunk slot.
SLOT_OFFSET, SLOT_SIZE, SLOT_FUNCTION, SLOT_FLAGS = 0, 1, 2, 3
SLOT_WORDS = 4

# Flags of a chunk slot.
KIND_CALL, KIND_CALL_KWDS, KIND_MAP, KIND_STARMAP = 0, 1, 2, 3
KIND_MASK, IN_BLOCK = 3, 4
APART = 64  # a payload with buffers in blocks of their own, which its last words name, see `_agent/buffers.py`
TIMED = 32  # a chunk of items, each of which has a time limit: the agent stamps the start of each
KIND_INT, KIND_TWO_INTS = 8, 16  # a call with small ints, which stand in place of offset and size: no payload
INT_LIMIT = 1 << 62  # below this, either sign, an int travels in a word
ITEMWISE = 128  # a chunk of items that end apart, see `_agent/itemwise.py`
FIRST_ONLY = 256  # the same, and it ends with the first that fails
CLASS_SHIFT = 10  # SLOT_FLAGS from this bit on: the chunk's class, 0: every agent can run it
FLAGS_MASK = (1 << CLASS_SHIFT) - 1
INLINE_FUNCTION = -1  # SLOT_FUNCTION: the function is in the payload

FUNCTION_WORDS = 4  # number, offset, size, 1: it serves one job only, 2: it has buffers apart
MASK_BITS = 62  # agents per word of a class's mask: what an int64 holds without its sign, and one bit to spare


class Geometry(NamedTuple):
    """Sizes of a segment. Tests shrink them until every edge is met."""

    slots: int
    levels: int = 1
    entries: int = 64
    """Ranges an agent can hold per level. Too few: the parent holds work back; too many: a scan takes longer."""
    page_chunks: int = 4096
    page_bytes: int = 1 << 19
    pages: int = 256
    """Pages of slots and slabs; `pages * page_chunks` chunks can be in flight, the rest waits in the parent."""
    ring_bytes: int = 1 << 20
    reply_bytes: int = 1 << 18
    """What the parent can have told an agent before that reads it. Too small: large answers get blocks of their own."""
    functions: int = 1024
    classes: int = 0
    """Sets of skills that tasks of one scheduler may ask for; 0: no classes, every agent can run everything."""
    leases: int = 128
    """Blocks that an agent may read in place, each of which costs it a descriptor (Python's `mmap` keeps one, before
    3.13). Too few: what tasks keep beyond them is copied; too many: agents run out of descriptors."""


class Layout:
    """Offsets for one geometry."""

    def __init__(self, geometry: Geometry) -> None:
        g = self.geometry = geometry
        per_agent = LEVELS_AT + g.levels * (2 + 2 * g.entries)
        self.agent_words = -(-per_agent // 64) * 64
        self.agents_word = HEADER_WORDS
        self.functions_word = self.agents_word + g.slots * self.agent_words
        self.classes_word = self.functions_word + g.functions * FUNCTION_WORDS
        self.mask_words = -(-g.slots // MASK_BITS)
        self.leases_word = self.classes_word + g.classes * self.mask_words
        self.slots_word = self.leases_word + g.slots * g.leases
        self.chunks = g.pages * g.page_chunks
        slabs = (self.slots_word + self.chunks * SLOT_WORDS) * 8
        self.slabs_byte = -(-slabs // 4096) * 4096
        self.rings_byte = self.slabs_byte + g.pages * g.page_bytes
        self.replies_byte = self.rings_byte + g.slots * g.ring_bytes
        self.mapped_bytes = self.replies_byte + g.slots * g.reply_bytes

    def agent(self, slot: int) -> int:
        """First word of an agent."""
        return self.agents_word + slot * self.agent_words

    def in_all_agents(self, word: int) -> range:
        """The same word of every agent, by slot, from that of agent 0."""
        return range(word, word + self.geometry.slots * self.agent_words, self.agent_words)

    def head(self, slot: int, level: int) -> int:
        """Word of the head index of a level; the tail index is the next one."""
        return self.agent(slot) + LEVELS_AT + 2 * level

    def entries(self, slot: int, level: int) -> int:
        """First word of a level's ring of `(lo, hi)` entries."""
        g = self.geometry
        return self.agent(slot) + LEVELS_AT + 2 * g.levels + 2 * g.entries * level

    def leases(self, slot: int) -> int:
        """First word of the blocks that an agent reads in place."""
        return self.leases_word + slot * self.geometry.leases

    def class_mask(self, number: int, slot: int) -> tuple[int, int]:
        """Word in which a class says whether an agent can run it, and the bit of that agent."""
        return self.classes_word + number * self.mask_words + slot // MASK_BITS, 1 << slot % MASK_BITS

    def chunk(self, number: int) -> int:
        """First word of a chunk's slot. Pages are mapped directly: number modulo all slots."""
        return self.slots_word + (number % self.chunks) * SLOT_WORDS

    def slab(self, page: int) -> int:
        """First byte of a page's slab, by physical page."""
        return self.slabs_byte + page * self.geometry.page_bytes

    def ring(self, slot: int) -> int:
        """First byte of an agent's result ring."""
        return self.rings_byte + slot * self.geometry.ring_bytes

    def replies(self, slot: int) -> int:
        """First byte of an agent's reply ring."""
        return self.replies_byte + slot * self.geometry.reply_bytes
