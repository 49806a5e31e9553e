"""Cascading failure: three of five agents are killed one after the other while tasks flow.

    python examples/demo_cascading_failure.py [--quick] [--start-method METHOD]

It ends by checking its own outcome: exit status 0 and a line that says what was checked, else 1. The code is
`mpsteal/demos/cascading_failure.py`; `mpsteal demo cascading_failure` runs the same.
"""

import sys

from mpsteal.demos import main

if __name__ == "__main__":
    sys.exit(main("cascading_failure"))
