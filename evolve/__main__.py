"""Entry point of `evosplit` and of `python -m evolve`: handles Ctrl-C also while the command line is imported."""

from __future__ import annotations

import sys


def main() -> None:
    """Run a command; Ctrl-C during imports ends it without a traceback, as it does later."""
    try:
        from evolve.cli import main as command

        command()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
