"""Library of `cta_queue`, compiled once for all candidates of this process; without a compiler they run Python."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from evaluators.data.errors import UserError
from evaluators.language.cpp.compiler import CompileError, compile_library, find_compiler
from evaluators.language.cpp.emit_expressions import HELPERS
from evaluators.sandbox.cta_queue import SYMBOL, compiled_queue, cta_queue

SOURCE = """
#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <vector>

@QUEUE@

extern "C" int64_t @SYMBOL@(int64_t const* lengths, int64_t count, int64_t tiles, int64_t blocks, int64_t most,
                            int64_t sms, int64_t turn, int64_t longest_first, int32_t* out) {
    std::vector<int64_t> const n_blocks(lengths, lengths + count);
    auto const finish = cta_queue(n_blocks, tiles, blocks, most, sms, turn, longest_first != 0);
    std::copy(finish.begin(), finish.end(), out);
    return int64_t(finish.size());
}
"""

_COMPILING = threading.Lock()
_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []
_PATHS: list[str] = []


def queue_library() -> str:
    """Path of the library, which is deleted at the end of this process; empty without a compiler."""
    with _COMPILING:
        if not _PATHS:
            _PATHS.append(_compiled())
        return _PATHS[0]


def fastest_queue() -> Callable[..., list[int]]:
    """`cta_queue` as it is fastest here, compiled or in Python; for one thread at a time."""
    library = queue_library()
    return compiled_queue(library) if library else cta_queue


def _compiled() -> str:
    folder = tempfile.TemporaryDirectory(prefix="evosplit-queue-")
    text = SOURCE.replace("@QUEUE@", HELPERS["cta_queue"]).replace("@SYMBOL@", SYMBOL)
    try:
        path = compile_library(find_compiler(), text, Path(folder.name))
    except (UserError, CompileError):
        folder.cleanup()
        return ""
    _FOLDERS.append(folder)
    return str(path)
