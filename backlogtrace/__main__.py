"""`python -m backlogtrace`; knows nothing but the entry point."""

import sys

from backlogtrace.cli import main

if __name__ == "__main__":
    sys.exit(main())
