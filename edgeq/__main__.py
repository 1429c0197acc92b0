"""Entry point of `python -m edgeq`, the same as `edgeq`."""

import sys

from edgeq.cli import main

if __name__ == "__main__":
    sys.exit(main())
