"""Priorities: protected tasks (priority 4 and 5) are handed in last, start first, and are not stolen.

    python examples/demo_priorities.py [--quick] [--start-method METHOD]

It ends by checking its own outcome: exit status 0 and a line that says what was checked, else 1. The code is
`mpsteal/demos/priorities.py`; `mpsteal demo priorities` runs the same.
"""

import sys

from mpsteal.demos import main

if __name__ == "__main__":
    sys.exit(main("priorities"))
