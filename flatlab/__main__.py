"""`python -m flatlab`: list, run, report, data, record, check, recompute, store."""

import sys

if __name__ == "__main__":
    try:
        from flatlab.runner.cli import main  # takes a moment, in which a user may stop it

        code = main()
    except KeyboardInterrupt:
        print("interrupted before anything was begun", file=sys.stderr)
        code = 130
    sys.exit(code)
