"""Sieve the numbers up to 50 million, block by block: how many primes there are, and the widest gap between two.

All blocks are of one length, but the later ones have more primes to cross out by (54 for the first, 900 for the last),
so the work grows along the list, to about twice as much. Slices are assigned in C, one for each prime. A result is four
numbers.
"""

from __future__ import annotations

from itertools import compress
from math import isqrt

BLOCK = 1 << 16

Block = tuple[int, int]
"""First number, and the one behind the last."""
Found = tuple[int, int, int, int]
"""Of a block that has a prime: how many, the first, the last, the widest gap between neighbours. Else all zero."""


def blocks(end: int, length: int = BLOCK) -> list[Block]:
    return [(low, min(end, low + length)) for low in range(0, end, length)]


def items(scale: float) -> list[Block]:
    return blocks(int(50_000_000 * scale))


def small_primes(limit: int) -> list[int]:
    """All primes up to the limit, by the plain sieve."""
    flags = bytearray(b"\1") * (limit + 1)
    flags[:2] = bytes(min(2, limit + 1))
    for p in range(2, isqrt(limit) + 1):
        if flags[p]:
            flags[p * p :: p] = bytes(len(range(p * p, limit + 1, p)))
    return list(compress(range(limit + 1), flags))


def sieve(low: int, high: int, by: list[int]) -> Found:
    """The primes in [low, high); `by` has at least those up to the root of `high`."""
    flags = bytearray(b"\1") * (high - low)
    for n in range(low, min(2, high)):
        flags[n - low] = 0
    for p in by:
        if p * p >= high:
            break
        first = max(p * p, -(-low // p) * p) - low
        if first < high - low:
            flags[first::p] = bytes((high - low - first - 1) // p + 1)
    first, last = flags.find(1), flags.rfind(1)
    if first < 0:
        return 0, 0, 0, 0
    gap = 1 + max(map(len, flags[first + 1 : last + 1].split(b"\1")))
    return flags.count(1), low + first, low + last, gap if last > first else 0


def task(block: Block) -> Found:
    low, high = block
    return sieve(low, high, small_primes(isqrt(high)))


def merge(results: list[Found]) -> tuple[int, int]:
    """Number of primes, and the widest gap, those between blocks included."""
    count = widest = before = 0
    for found, first, last, gap in results:
        if not found:
            continue
        count += found
        widest = max(widest, gap, first - before if before else 0)
        before = last
    return count, widest


def twin(all_blocks: list[Block]) -> tuple[int, int]:
    by = small_primes(isqrt(all_blocks[-1][1]))
    count = widest = before = 0
    for low, high in all_blocks:
        found, first, last, gap = sieve(low, high, by)
        if found:
            count += found
            widest = max(widest, gap, first - before if before else 0)
            before = last
    return count, widest
