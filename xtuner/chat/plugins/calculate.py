"""The value of an arithmetic expression, exact for whole numbers, bounded in size.

"(3 + 4) * 2; sqrt(2)"  ->  "14; 1.414213562"
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable
from typing import Any

from xtuner.chat.plugins.formula import FormulaError, work_out

_MAX_BITS = 4096
_MAX_FACTORIAL = 300
_OPERATORS: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_CONSTANTS = {"pi": math.pi, "e": math.e}
_NAMES = "sqrt exp sin cos tan asin acos atan sinh cosh tanh log10 log2 floor ceil degrees radians gcd lcm"
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{name: getattr(math, name) for name in _NAMES.split()},
    **{"log": math.log, "ln": math.log, "abs": abs, "round": round, "min": min, "max": max},
    "pow": lambda base, exponent: _Floats().operator(ast.Pow, base, exponent),
    "factorial": lambda n: math.factorial(n) if n <= _MAX_FACTORIAL else _refuse_size(),
}


def calculate(expression: str) -> str:
    """The values of expressions, which are separated by `;`."""
    parts = [part for part in expression.replace("；", ";").split(";") if part.strip()]
    if not parts:
        raise FormulaError("there is no expression to calculate")
    return "; ".join(_written(work_out(part, _Floats())) for part in parts)


class _Floats:
    """Python's own numbers."""

    def constant(self, value: int | float, source: str) -> int | float:
        return _bounded(value)

    def name(self, name: str) -> float:
        if name in _CONSTANTS:
            return _CONSTANTS[name]
        raise FormulaError(f"{name!r} is not a number; known are {', '.join(_CONSTANTS)}")

    def operator(self, kind: type[ast.AST], left: Any, right: Any) -> Any:
        if kind not in _OPERATORS:
            raise FormulaError(f"{kind.__name__} is not arithmetic; known are + - * / // % **")
        whole = isinstance(left, int) and isinstance(right, int) and abs(left) > 1
        if kind is ast.Pow and whole and left.bit_length() * abs(right) > _MAX_BITS:
            _refuse_size()
        return _bounded(_OPERATORS[kind](left, right))

    def call(self, name: str, arguments: list[Any]) -> Any:
        if name not in _FUNCTIONS:
            raise FormulaError(f"there is no function {name!r}; known are {', '.join(_FUNCTIONS)}")
        try:
            return _bounded(_FUNCTIONS[name](*arguments))
        except (TypeError, ValueError) as error:
            raise FormulaError(f"{name}: {error}") from None


def _bounded(value: Any) -> int | float:
    if isinstance(value, int):
        return value if value.bit_length() <= _MAX_BITS else _refuse_size()
    if not isinstance(value, float) or not math.isfinite(value):
        raise FormulaError("the result is not a real number")
    return value


def _refuse_size() -> Any:
    raise FormulaError("the result is too large")


def _written(value: int | float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.10g}"
