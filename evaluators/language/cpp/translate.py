"""A program as the body of a C++17 function: constants and helpers as lambdas, then its statements."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass

from evaluators.language.cpp.emit_calls import CallExpressions
from evaluators.language.cpp.emit_expressions import HELPERS
from evaluators.language.cpp.emit_statements import INDENT, LINE_LENGTH, Statements
from evaluators.language.cpp.infer_expressions import refuse
from evaluators.language.cpp.infer_statements import Inference
from evaluators.language.cpp.normalise import Form, MayBeZero, NotExpressible, always_returns, stored_names
from evaluators.language.cpp.types import Kind, Type, cpp_type


@dataclass(frozen=True, slots=True)
class CppBody:
    """A translated function.

    Attributes:
        statements: text of each top-level statement of the program, in order, comments included.
        preamble: lambdas and constants before them.
        may_divide_by_zero: statements that divide by zero for an input of 0; -1 is the preamble.
        notes: notes on exactness for reviewers.
    """

    statements: tuple[str, ...]
    preamble: tuple[str, ...]
    may_divide_by_zero: frozenset[int]
    notes: tuple[str, ...]

    @property
    def text(self) -> str:
        """The whole body, indented once."""
        return "\n".join((*self.preamble, *self.statements))


class _Writer(Statements):
    """Writes the body and each helper of one form."""

    def body(self) -> tuple[list[str], list[str]]:
        """(preamble, statements)."""
        self._merge_parameters()
        preamble = []
        for name, value in self.form.constants.items():
            kind = self.types.constants[name]
            sign = "" if kind.low == kind.high else " const"
            above, behind = self.comments.pop(value.lineno, []), self.comments.pop(-value.lineno, [])
            line = f"{cpp_type(kind)} const{sign} {self.name(name)} = {ast.unparse(value).lower()};"
            if behind and len(f"{INDENT}{line}  // {behind[0]}") <= LINE_LENGTH:
                line, behind = f"{line}  // {behind[0]}", []
            preamble += [*(f"// {text}" for text in (*above, *behind)), line]
        statements = self._function(self.form.body, [])
        helpers = [line for f in self.form.helpers.values() for line in self._helper(f)]
        needed = [line for name in HELPERS if name in self.expressions.needed for line in HELPERS[name].splitlines()]
        lines = [INDENT + line for text in (*needed, *preamble, *helpers) for line in text.splitlines()]
        return lines, statements

    def _helper(self, function: ast.FunctionDef) -> list[str]:
        if not always_returns(function.body):
            raise refuse(function, f"{function.name} may end without a return", "end it with return")
        self.function = function.name
        kinds = zip(function.args.args, self.types.parameters[function.name], strict=True)
        given = [(a.arg, t) for a, t in kinds if t.kind is not Kind.VIEW]
        arguments = ", ".join(
            f"{'auto const&' if t.kind is Kind.LIST else cpp_type(t)} {self.name(name)}" for name, t in given
        )
        body = self._function(function.body, [name for name, _ in given])
        result = cpp_type(self.types.results[function.name])
        self.function = ""
        return [f"auto const {self._free(function.name)} = [&]({arguments}) -> {result} {{", *body, "};"]

    def _merge_parameters(self) -> None:
        """Let a local name take over the parameter of the same name where the parameter is not read any more."""
        inputs = {v: k for k, v in self.fields.items()}
        helper_reads = {n.attr for f in self.form.helpers.values() for n in ast.walk(f) if isinstance(n, ast.Attribute)}
        for name in stored_names(self.form.body) & inputs.keys():
            first = next(
                (i for i, s in enumerate(self.form.body) if isinstance(s, ast.Assign) and name in stored_names([s])),
                None,
            )
            if first is None or any(name in stored_names([s]) for s in self.form.body[:first]):
                continue
            later = self.form.body[first + 1 :]
            field = inputs[name].removeprefix("gpu.")
            read = any(isinstance(n, ast.Attribute) and n.attr == field for s in later for n in ast.walk(s))
            same = cpp_type(self.types.names[""][name]) == cpp_type(self.types.inputs[inputs[name]])
            if not read and same and field not in helper_reads:
                self.merged.add(name)


def translate(form: Form, inputs: Mapping[str, Type], fields: Mapping[str, str], *,
              guarded: bool = False) -> CppBody:  # fmt: skip
    """A form as the body of a C++ function.

    Args:
        form: one entry point; every path must return.
        inputs: range of each input that the target has.
        fields: the target's own name, or an expression, for each of them.
        guarded: True if the caller excludes inputs that would divide by zero.

    Raises:
        NotExpressible: a construct without exact counterpart, or an input that the target lacks.
    """
    if not always_returns(form.body):
        raise NotExpressible("schedule may end without a return", hint="end it with a return")
    types = Inference(form, inputs)
    if types.divisors and not guarded:
        where = types.divisors[0]
        text = ast.unparse(where)
        raise MayBeZero(f"line {where.lineno}: the divisor {text} may be 0", hint=f"max(1, {text})")
    if types.results[""].kind is not Kind.INT:
        raise NotExpressible("what is returned is not always an integer", hint="int(...), math.ceil(...) or //")
    return body_of(form, types, fields)


def body_of(form: Form, types: Inference, fields: Mapping[str, str],
            expressions: type[CallExpressions] = CallExpressions) -> CppBody:  # fmt: skip
    """Translate a form whose types are known, as `translate`; `expressions` writes its expressions."""
    writer = _Writer(form, types, fields, expressions)
    preamble, statements = writer.body()
    notes = set(writer.expressions.notes)
    inside = {id(n): i for i, s in enumerate(form.body) for n in ast.walk(s)}
    zero = frozenset(inside.get(id(d), -1) for d in types.divisors)
    return CppBody(tuple(statements), tuple(preamble), zero, tuple(sorted(notes)))
