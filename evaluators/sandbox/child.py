"""Main program of a sandbox process: runs one candidate on all questions.

Started as `python -s -S -P -B sandbox_child.py` with a hash seed in an otherwise empty environment. The request
comes on stdin: the length of its head, the head (source, limits, a nonce), then the questions, both in `marshal`
format. The reply is JSON, which the reader must not trust. The process confines itself before the candidate's first
statement runs. Imports its neighbour `confine` and, since it is started for every candidate, only fast modules of the
standard
library: json, pathlib, typing and signal would double its start-up time.
"""

from __future__ import annotations

import _warnings
import marshal
import math
import os
import struct
import sys
from _json import encode_basestring_ascii
from importlib.machinery import SourceFileLoader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import CodeType
    from typing import Any

FILE_NAME = "<heuristic>\ud800"
"""Name of no file: CPython would open a file to quote a syntax error, for which the sandbox kills the process."""

MAX_MESSAGE = 400
BEGUN = b"begun\n"
"""Written once the process is confined, before the candidate's code is compiled."""

CONSTANTS = {None: "null", True: "true", False: "false"}


class BadAnswer(Exception):
    """An answer of the wrong type or out of range."""


def view_class(name: str, fields: list[str]) -> type:
    """Make a class with exactly these attributes, for fast construction of many objects."""
    arguments = ", ".join(fields)
    body = "".join(f"        self.{f} = {f}\n" for f in fields)
    text = f"class {name}:\n    __slots__ = {tuple(fields)!r}\n    def __init__(self, {arguments}):\n{body}"
    scope: dict[str, Any] = {}
    exec(text, scope)
    made: type = scope[name]
    return made


def whole(value: object, name: str, low: int, high: int) -> int:
    """Check for an exact int in range; bool, float and subclasses of int are refused."""
    if type(value) is not int:
        raise BadAnswer(f"{name} must be an int, got {type(value).__name__}")
    if not low <= value <= high:
        raise BadAnswer(f"{name} must lie in {low}..{high}, got {value if abs(value) < 10**9 else 'a huge number'}")
    return value


SINGLE = struct.Struct("<f")


def single_precision(value: float) -> float:
    """`float32` of the heuristic language: the nearest single-precision number."""
    return float(SINGLE.unpack(SINGLE.pack(value))[0])


def sum_in_order(values: Iterable[Any], start: Any = 0) -> Any:
    """Sum from left to right with rounding at each step, as in C++ and Python before 3.12."""
    for value in values:
        start = start + value
    return start


def decide(request: dict[str, Any], questions: dict[str, Any], code: CodeType) -> list[list[Any]]:
    """Run the candidate on every shape.

    Raises:
        BadAnswer: wrong result, with the shape's index as second argument; other exceptions are the candidate's own.
    """
    # From 3.12 on the built-in sum rounds differently: scores must not depend on Python's version.
    plain_sum = sum if sys.version_info < (3, 12) else sum_in_order
    builtins = {
        "abs": abs, "bool": bool, "float": float, "float32": single_precision, "int": int, "len": len, "max": max,
        "min": min, "range": range, "round": round, "sorted": sorted, "sum": plain_sum,
        "cta_queue": request["queue"], "__import__": lambda name, *_: math if name == "math" else None,
    }  # fmt: skip
    if request["open_builtins"]:
        # Tests of the confinement run code that the gate would refuse.
        builtins = vars(sys.modules["builtins"])
    knobs, variants, work_at = questions["knobs"], questions["variants"], questions["work_at"]
    names, width = [name for name, *_ in knobs], len(knobs)
    fewest, most = questions["blocks"]
    scope: dict[str, Any] = {"__builtins__": builtins, "__name__": "heuristic"}
    exec(code, scope)
    schedule = scope["schedule"]
    blocks_per_split = scope.get("blocks_per_split") if request["work"] else None
    shape_class = view_class("Shape", questions["shape_fields"])
    work_class = view_class("Work", questions["work_fields"])
    gpu = view_class("Gpu", list(questions["gpu"]))(*questions["gpu"].values())
    rows = []
    for index, (shape, stock, works) in enumerate(questions["rows"]):
        request["at"] = index
        answer = schedule(shape_class(*shape), gpu)
        if type(answer) is not tuple or len(answer) != width:
            raise BadAnswer(f"schedule must return ({', '.join(names)})")
        for value, (name, low, high, values, flag) in zip(answer, knobs, strict=True):
            if not flag:
                whole(value, name, low, high)
                if values and value not in values:
                    raise BadAnswer(f"{name} must be one of {', '.join(map(str, values))}, got {value}")
            elif value is not None and type(value) is not bool:
                raise BadAnswer(f"{name} must be None, True or False, got {type(value).__name__}")
        if variants is not None and answer[1:] not in variants:
            known = ", ".join([str(v) for v in variants])
            raise BadAnswer(f"({', '.join(names[1:])}) must be one of {known}, got {answer[1:]}")
        cap = answer[0] or stock
        blocks = fewest
        if blocks_per_split is not None and cap:
            work = works[knobs[work_at][3].index(answer[work_at]) if work_at >= 0 else 0]
            seen = work_class(cap, *work[:-1], list(work[-1]))
            blocks = whole(blocks_per_split(seen, gpu), "blocks_per_split", fewest, most)
        rows.append([*answer, blocks])
    return rows


def queue_function(library: str) -> Any:
    """`cta_queue`, from the compiled library if there is one."""
    module = SourceFileLoader("cta_queue", os.path.join(os.path.dirname(__file__), "cta_queue.py")).load_module()
    return module.compiled_queue(library) if library else module.cta_queue


def candidate_line(error: BaseException) -> int:
    """Line of the candidate that raised an exception; 0 if it came from elsewhere."""
    line, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == FILE_NAME:
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def encoded(reply: dict[str, Any]) -> bytes:
    """Encode a reply as JSON: text, numbers, and mappings and lists of them."""

    def of(value: object) -> str:
        if isinstance(value, str):
            return encode_basestring_ascii(value)
        if isinstance(value, dict):
            return "{" + ",".join([f"{of(k)}:{of(v)}" for k, v in value.items()]) + "}"
        if isinstance(value, list):
            return "[" + ",".join([of(v) for v in value]) + "]"
        return CONSTANTS[value] if value is None or isinstance(value, bool) else str(value)

    return of(reply).encode()


def main() -> None:
    """Read the request, confine the process, run the candidate, write the reply."""
    # By path: -P keeps this folder off sys.path.
    confine = SourceFileLoader("confine", os.path.join(os.path.dirname(__file__), "confine.py")).load_module()
    confine.end_with_the_parent()
    head_bytes = int(sys.stdin.buffer.readline())
    request = marshal.loads(sys.stdin.buffer.read(head_bytes))
    nonce = request.pop("nonce")
    request["at"] = -1
    questions = marshal.loads(sys.stdin.buffer.read())
    library = request.get("queue")
    request["queue"] = None if library is None else queue_function(library)
    if request["open_builtins"]:
        # For tests of the confinement, since nothing can be imported later.
        import json  # noqa: F401
        import pathlib  # noqa: F401
        import signal  # noqa: F401
    # The parser may warn about code, and printing warnings opens files.
    _warnings.filters.insert(0, ("ignore", None, Warning, None, 0))
    confined = (confine.confine if request["confined"] else confine.limit)(**request["limits"])
    # From here on failures are the candidate's.
    os.write(1, BEGUN)
    reply: dict[str, Any]
    code: CodeType | None = None
    try:
        code = compile(request["source"], FILE_NAME, "exec", dont_inherit=True)
        reply = {"status": "ok", "rows": decide(request, questions, code)}
    except BadAnswer as error:
        reply = {"status": "bad_answer", "message": str(error)}
    except MemoryError:
        reply = {"status": "memory", "message": ""}
    except BaseException as error:
        reply = {
            "status": "raised",
            "message": f"{type(error).__name__}: {str(error)[:MAX_MESSAGE]}",
            "line": candidate_line(error),
        }
        if code is None and isinstance(error, SyntaxError):
            reply |= {"status": "syntax", "message": error.msg[:MAX_MESSAGE], "line": error.lineno or 0}
    reply |= {"nonce": nonce, "at": request["at"], "confined": confined}
    sys.stdout.buffer.write(encoded(reply))
    sys.stdout.buffer.flush()
    # The interpreter's regular exit restores signal handlers, which the filter forbids.
    os._exit(0)


if __name__ == "__main__":
    main()
