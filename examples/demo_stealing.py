"""Basic stealing: five agents, and tasks of which the heavy ones all land on the first of them.

    python examples/demo_stealing.py [--quick] [--start-method METHOD]

It ends by checking its own outcome: exit status 0 and a line that says what was checked, else 1. The code is
`mpsteal/demos/stealing.py`; `mpsteal demo stealing` runs the same.
"""

import sys

from mpsteal.demos import main

if __name__ == "__main__":
    sys.exit(main("stealing"))
