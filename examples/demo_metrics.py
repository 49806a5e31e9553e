"""Full metrics after a mixed load: skills, priorities, dependencies, deadlines, a time limit, failures, a withdrawal.

    python examples/demo_metrics.py [--quick] [--start-method METHOD]

It ends by checking its own outcome: exit status 0 and a line that says what was checked, else 1. The code is
`mpsteal/demos/metrics.py`; `mpsteal demo metrics` runs the same.
"""

import sys

from mpsteal.demos import main

if __name__ == "__main__":
    sys.exit(main("metrics"))
