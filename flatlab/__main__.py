"""`python -m flatlab`: list, run, report, data, record."""

import sys

from flatlab.runner.cli import main

if __name__ == "__main__":
    sys.exit(main())
