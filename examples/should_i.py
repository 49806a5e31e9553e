"""Should I use a pool for this function? Five functions, and for each an answer that is checked by a run.

    greet           takes less than it costs to send its argument
    digit_sum       takes some ten microseconds, about as long each time
    count_primes    takes about a millisecond
    collatz         a hundred long calls first, then thousands of short ones
    checksum        reads 100 KB, which have to be sent to it

    python examples/should_i.py [name of one of them] [options of `mpsteal advise`]

Each function is measured here, then what both pools cost on this machine, and from these two comes what the whole job
takes in a loop, with the stock pool and with mpsteal. Then all of it is run, and the error of the prediction stands in
the last column. For functions of your own: `mpsteal advise script.py:function --inputs 'range(1000)'`.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable
from typing import Any

from mpsteal.cli import main as mpsteal


def greet(name: str) -> str:
    """Nothing to speak of."""
    return f"Hello, {name}!"


def digit_sum(exponent: int) -> int:
    """Of a power of three, by way of its decimal digits."""
    return sum(map(int, str(3**exponent)))


def count_primes(start: int) -> int:
    """How many of the 100 numbers from `start` on are prime."""
    return sum(all(n % d for d in range(2, int(n**0.5) + 1)) for n in range(max(2, start), start + 100))


def collatz(limit: int) -> int:
    """The longest chain below `limit` of halving what is even, and tripling and adding one to what is odd."""
    longest = 0
    for n in range(1, limit):
        length = 1
        while n != 1:
            n = 3 * n + 1 if n % 2 else n // 2
            length += 1
        longest = max(longest, length)
    return longest


def checksum(block: bytes) -> int:
    """Of what has come all the way."""
    return zlib.crc32(block)


def names() -> list[str]:
    return [f"reader {i}" for i in range(20_000)]


def exponents() -> list[int]:
    return [600 + i % 50 for i in range(10_000)]


def starts() -> list[int]:
    return list(range(10**6, 10**6 + 100 * 600, 100))


def limits() -> list[int]:
    return [400] * 100 + [20 + i % 10 for i in range(3_000)]


def blocks() -> list[bytes]:
    return [bytes([i % 251]) * 100_000 for i in range(400)]


JOBS: dict[str, Callable[[], list[Any]]] = {
    "greet": names,
    "digit_sum": exponents,
    "count_primes": starts,
    "collatz": limits,
    "checksum": blocks,
}
"""Each function by its name, and what makes its inputs."""


def main(words: list[str]) -> int:
    chosen = [words.pop(0)] if words and words[0] in JOBS else list(JOBS)
    status = 0
    for name in chosen:
        print(f"== {name}\n", flush=True)
        status |= mpsteal(["advise", f"{__file__}:{name}", "--inputs", JOBS[name].__name__, *words])
        print(flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
