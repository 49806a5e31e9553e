"""`python -m mpsteal`: the same as the `mpsteal` command."""

import sys

from mpsteal.cli import main

if __name__ == "__main__":
    sys.exit(main())
