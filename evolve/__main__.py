"""Entry point of `evosplit` and of `python -m evolve`: imports the command line where an interruption is answered."""

from __future__ import annotations

import sys


def main() -> None:
    """Run a command; Ctrl-C while modules are imported ends it as Ctrl-C does later, without a traceback."""
    try:
        from evolve.cli import main as command

        command()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
