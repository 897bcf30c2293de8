"""Coverage-guided fuzzing of the gate, what runs and translates programs, and the parser of answers.

    pip install -e '.[fuzz]' && python tests/faults/fuzz_gate.py --seconds 30 [--corpus FOLDER]

Starts from the seeds, the hostile programs and the inputs that earlier hours found worth keeping (`KEPT`). Whatever the
gate lets through is checked by a second, much simpler reading of the syntax tree, and must run in the sandbox and be
translated to C++, or be refused there, without an exception of ours. One program of `COMPILED_OF` is compiled and
loaded, too, and must answer as the sandbox does. Ends with exit code 0, or with the input that broke something.

`--corpus` is a folder of inputs to start from and to add new ones to; `tests/faults/test_fuzz_corpus.py` puts the kept
ones through the same checks without atheris.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import sys
import tempfile
import zipfile
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/support")]

if TYPE_CHECKING:
    from evaluators.sandbox.native import NativeCompiler
    from evaluators.sandbox.sandbox import Sandbox

ONE_INPUT_S = 120
"""Wall time after which one input counts as a hang; a busy machine stretches the second that the longest takes."""

COMPILED_OF = 16
"""Compiling takes a second, translating a millisecond."""

KEPT = ROOT / "tests/fixtures/fuzz-corpus.zip"
"""Inputs of earlier hours, as few as reach every place that any of them reached."""

PERMITTED = {
    "Module", "Import", "ImportFrom", "alias", "FunctionDef", "arguments", "arg", "Return", "Assign", "AugAssign", "If",
    "For", "Break", "Continue", "Pass", "Expr", "Constant", "Name", "Attribute", "BinOp", "UnaryOp", "BoolOp",
    "Compare", "IfExp", "Call", "Tuple", "List", "Subscript", "ListComp", "GeneratorExp", "comprehension", "Load",
    "Store", "Add", "Sub", "Mult", "Div", "FloorDiv", "Mod", "USub", "UAdd", "Not", "And", "Or", "Eq", "NotEq", "Lt",
    "LtE", "Gt", "GtE", "Is", "IsNot",
}  # fmt: skip
"""Syntax nodes that may come through, written down a second time and not taken from the gate."""

INSTRUMENTED = (
    "evaluators.language.gate",
    "evaluators.language.checker",
    "evolve.search.responses",
    "openevolve.utils.code_utils",
)
"""Modules whose branches guide the search."""

TOKENS = (
    "def ", "schedule", "blocks_per_split", "(shape, gpu):\n    ", "return ", "1, None, 0\n", "import math\n", "shape.",
    "batch", "gpu.num_sms", "work.n_blocks", "lambda", "__class__", "__", "while ", "yield ", "await ", "async ",
    "try:",
    "class ", "with ", "@", ":=", "**", "*", "f'{", "}'", "`" * 3, "<<<<<<< SEARCH\n", "=======\n", ">>>>>>> REPLACE",
    "# EVOLVE-BLOCK-START\n", "# EVOLVE-BLOCK-END\n", "[", "]", "(", ")", "{", "}", "-> ", ": int", "global ", "del ",
    "for i in range(3):\n    ", "if ", "else:\n    ", ".append(", "float32(", "True", "None", "0x", "1e999", "1j",
    "\\", "\\\n", ";", "\t", "\f", "\r", "\u202e", "\uff4f", "\\N{BULLET}", "match x:\n    case ", "type X = ",
)  # fmt: skip
"""What mutations insert beside bytes."""


class Hole(Exception):
    """The gate let something through, or refused in a way that it must not."""


@cache
def runners() -> tuple[Sandbox, NativeCompiler]:
    """Questions to programs: a ragged batch, so that both entry points are called."""
    from evaluators.data.contract import SETTINGS, DecodeShape, Gpu
    from evaluators.data.questions import Question
    from evaluators.fa3.dispatch import shape_view, work_view
    from evaluators.sandbox.native import NativeCompiler
    from evaluators.sandbox.sandbox import Limits, Sandbox

    setting, shape = SETTINGS["fa3_fwd-metadata-cold"], DecodeShape(3, 2000, 64, 8, live_seqlens=(1, 700, 2000))
    asked = [Question(shape_view(shape, setting), 4, (work_view(shape, setting, 4),))]
    # Programs that run long show nothing new, and many short ones fit into the same time.
    limits = Limits(time_s=0.2, memory_mb=256, time_tries=1)
    return Sandbox(Gpu(), asked, limits), NativeCompiler(Gpu(), asked, limits)


def check_program(source: str) -> int:
    """Put one source through the gate; returns the number of refusals, 0 for a program.

    Raises:
        Hole: see the class.
    """
    from evaluators.data.status import Status
    from evaluators.language.gate import ProgramRefused, parse_program
    from evaluators.sandbox.native import NotNative

    try:
        program = parse_program(source)
    except ProgramRefused as refused:
        text = str(refused)
        if not text or len(text) > 4000 or any(not c.isprintable() for c in text.replace("\n", "")):
            raise Hole(f"an odd refusal: {text[:200]!r}") from None
        return len(refused.refusals)
    for node in ast.walk(program.tree):
        kind = type(node).__name__
        if kind not in PERMITTED:
            raise Hole(f"{kind} came through")
        names = [getattr(node, field, None) for field in ("id", "attr", "name", "arg", "module", "asname")]
        for name in names:
            if isinstance(name, str) and ("__" in name or name.startswith("_") or len(name) > 64 or not name.isascii()):
                raise Hole(f"the name {name[:80]!r} came through")
        if getattr(node, "annotation", None) or getattr(node, "returns", None) or getattr(node, "decorator_list", None):
            raise Hole(f"an annotation or decorator of {kind} came through")
        if isinstance(node, ast.Import | ast.ImportFrom) and getattr(node, "module", "math") != "math":
            raise Hole(f"an import of {node.module!r} came through")  # type: ignore[union-attr]
    if parse_program(ast.unparse(program.tree)).normal_form != program.normal_form:
        raise Hole("the normal form changes with the layout")
    sandbox, native = runners()
    answers = sandbox.ask(program)
    with suppress(NotNative):
        native.translate(program, {})
        if int(hashlib.sha256(program.normal_form.encode()).hexdigest(), 16) % COMPILED_OF == 0:
            with native.compile(program) as compiled:
                (found,) = compiled.run([()])
            slow = answers.status is Status.TIMEOUT  # native code may be in time where the sandbox is not
            if found is not None and not slow and found.decisions() != answers.decisions:
                raise Hole(f"native code answers {found.decisions()}, the sandbox {answers}")
    return 0


def check_answer(text: str) -> None:
    """Put one answer through the parser of answers, as an answer to a seed."""
    from evolve.search.responses import FrozenCodeChanged, UnreadableAnswer, program_from

    parent = (ROOT / "seeds/fa3_stock.py").read_text(encoding="utf-8")
    try:
        check_program(program_from(text, parent))
    except (UnreadableAnswer, FrozenCodeChanged) as refused:
        if not str(refused):
            raise Hole("an answer was refused without a reason") from None


def check_input(data: bytes) -> None:
    """Put one input of the fuzzer to its check: answers begin with A, programs with anything else."""
    text = data[1:].decode("utf-8", "surrogateescape")
    check_answer(text) if data[:1] == b"A" else check_program(text)


def kept_inputs() -> list[bytes]:
    """Inputs of `KEPT`."""
    with zipfile.ZipFile(KEPT) as kept:
        return [kept.read(name) for name in kept.namelist()]


def starting_points() -> list[str]:
    """Seeds and hostile programs."""
    from attacks import WRITTEN

    seeds = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "seeds").glob("*.py"))]
    return [*seeds, *(attack.source for attack in WRITTEN)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--corpus", type=Path, help="folder of inputs to start from and to add to")
    options = parser.parse_args()
    try:
        import atheris
    except ImportError:
        print("error: atheris is not installed\nhint: pip install -e '.[fuzz]'", file=sys.stderr)
        return 3
    with atheris.instrument_imports(include=list(INSTRUMENTED)):
        for name in INSTRUMENTED:
            import_module(name)
    atheris.instrument_func(check_program)

    with tempfile.TemporaryDirectory(prefix="fuzz-gate-") as folder:
        corpus = options.corpus or Path(folder) / "corpus"
        corpus.mkdir(parents=True, exist_ok=True)
        for index, data in enumerate(kept_inputs()):
            (corpus / f"{index}.kept").write_bytes(data)
        for index, source in enumerate(starting_points()):
            (corpus / f"{index}.p").write_bytes(b"P" + source.encode())
            if index % 8 == 0:
                (corpus / f"{index}.a").write_bytes(f"A```python\n{source}```".encode())
        quoted = ("".join(f"\\x{byte:02x}" for byte in token.encode()) for token in TOKENS)
        (Path(folder) / "tokens").write_text("".join(f'"{token}"\n' for token in quoted))
        limits = [
            f"-max_total_time={options.seconds}",
            f"-seed={options.seed}",
            "-max_len=8000",
            f"-timeout={ONE_INPUT_S}",
        ]
        atheris.Setup([sys.argv[0], str(corpus), f"-dict={folder}/tokens", f"-artifact_prefix={folder}/", *limits],
                      check_input)  # fmt: skip
        atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
