"""Draw the Mandelbrot set, row by row: for each point the number of steps until it is known to lie outside.

Rows through the middle of the set take some twenty times as long as rows at its edge, and they lie side by side. All
the work is arithmetic in Python. A result is one byte for each point.
"""

from __future__ import annotations

WIDTH = 360
LIMIT = 255  # steps, after which a point counts as inside
LEFT, RIGHT, TOP, BOTTOM = -2.2, 0.8, 1.3, -1.3

Row = tuple[int, int]
"""Number of the row, and how many there are."""


def items(scale: float) -> list[Row]:
    height = max(2, int(160 * scale))
    return [(y, height) for y in range(height)]


def task(item: Row) -> bytes:
    y, height = item
    imaginary = (TOP * (height - 1 - y) + BOTTOM * y) / (height - 1)
    steps = bytearray(WIDTH)
    for x in range(WIDTH):
        c = complex(LEFT + (RIGHT - LEFT) * x / (WIDTH - 1), imaginary)
        z, n = 0j, 0
        while n < LIMIT and z.real * z.real + z.imag * z.imag <= 4.0:
            z = z * z + c
            n += 1
        steps[x] = n
    return bytes(steps)


def merge(results: list[bytes]) -> bytes:
    return b"".join(results)


def twin(rows: list[Row]) -> bytes:
    height = len(rows)
    picture = bytearray(WIDTH * height)
    at = 0
    for y in range(height):
        imaginary = (TOP * (height - 1 - y) + BOTTOM * y) / (height - 1)
        for x in range(WIDTH):
            c = complex(LEFT + (RIGHT - LEFT) * x / (WIDTH - 1), imaginary)
            z, n = 0j, 0
            while n < LIMIT and z.real * z.real + z.imag * z.imag <= 4.0:
                z = z * z + c
                n += 1
            picture[at] = n
            at += 1
    return bytes(picture)
