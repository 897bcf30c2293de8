"""Extend a recorded table by slices that `record_triton_decode.py --table` recorded for it.

    python scripts/extend_table.py results/tables/llama31-70b/triton_decode-metadata-cold SLICE... -o NEW_FOLDER

See evaluators/latencies/extension.py. No GPU.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from evaluators.data.errors import UserError
from evaluators.latencies.extension import extended, write_extension
from evaluators.latencies.table import TableError, doubts


def main() -> None:
    """Merge, write, and print doubts about the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("slices", type=Path, nargs="+")
    parser.add_argument("-o", type=Path, required=True, help="new folder")
    options = parser.parse_args()
    try:
        extension = extended(options.table, options.slices)
        write_extension(options.o, extension)
    except (TableError, UserError) as error:
        sys.exit(str(error))
    print(extension.card["extension"])
    for text in doubts(extension.cells):
        print(text, file=sys.stderr)


if __name__ == "__main__":
    main()
