"""`python -m collector`: the same program as `collector`."""

import sys

from collector.cli.program import main

if __name__ == "__main__":
    sys.exit(main())
