"""Main program of a confined process with a candidate's native code: loads a library, then decides tables.

Started as `python -s -S -P -B native_child.py`. The first line of stdin is the number of bytes of the request, which
follows in `marshal` format; the library is loaded before the process confines itself. Then it writes `ready`. Each
further request is a number of vectors, then the vectors as doubles; each is answered by an 8-byte number of rows
decided, then `width` 32-bit numbers a row.
"""

from __future__ import annotations

import ctypes
import marshal
import os
import sys
from importlib.machinery import SourceFileLoader


def main() -> None:
    """Load the library, confine the process, answer requests until stdin ends."""
    # By path: -P keeps this folder off sys.path.
    confine = SourceFileLoader("confine", os.path.join(os.path.dirname(__file__), "confine.py")).load_module()
    confine.end_with_the_parent()
    stdin, stdout = sys.stdin.buffer, sys.stdout.buffer
    request = marshal.loads(stdin.read(int(stdin.readline())))
    library = ctypes.CDLL(request["library"])
    count = request["count"]
    columns = [
        (ctypes.c_int64 * (len(request[name]) // 8)).from_buffer_copy(request[name])
        for name in ("shape", "stock", "work", "lengths", "blocks")
    ]
    numbers = (ctypes.c_double * max(1, request["numbers"]))()
    out = (ctypes.c_int32 * (request["width"] * count))()
    decide = library.table__decide
    decide.restype = ctypes.c_int64
    confine.confine(**request["limits"])
    library.table__load(ctypes.c_int64(count), *columns)
    stdout.write(b"ready\n")
    stdout.flush()
    size = 8 * request["numbers"]
    while True:
        head = stdin.read(8)
        if len(head) < 8:
            break
        vectors = [stdin.read(size) for _ in range(int.from_bytes(head, "little"))]
        for vector in vectors:
            ctypes.memmove(numbers, vector, size)
            stdout.write(int(decide(numbers, out)).to_bytes(8, "little"))
            stdout.write(out)
            stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
