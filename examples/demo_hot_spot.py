"""Hot spot: 20 tasks wait at the only agent there is; four more register, and the queue spreads out over five.

    python examples/demo_hot_spot.py [--quick] [--start-method METHOD]

It ends by checking its own outcome: exit status 0 and a line that says what was checked, else 1. The code is
`mpsteal/demos/hot_spot.py`; `mpsteal demo hot_spot` runs the same.
"""

import sys

from mpsteal.demos import main

if __name__ == "__main__":
    sys.exit(main("hot_spot"))
