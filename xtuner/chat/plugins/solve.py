"""The solutions of equations, found by sympy in a separate process.

"x + y = 3, x - y = 1"  ->  "x = 2, y = 1"
"x^2 = 4"               ->  "x = -2 or x = 2"

Some equations take sympy for ever or all memory; the process has a limit of both.
"""

from __future__ import annotations

import ast
import contextlib
import subprocess
import sys
from typing import Any

from xtuner.chat.plugins.formula import FormulaError, work_out

SECONDS = 20.0
_MEMORY = 2 * 1024**3  # bytes
_OPERATORS = {ast.Add: "Add", ast.Sub: "Sub", ast.Mult: "Mul", ast.Div: "Div", ast.Pow: "Pow"}
_FUNCTIONS = {
    **{name: name for name in ("sqrt", "exp", "log", "sin", "cos", "tan", "sinh", "cosh", "tanh")},
    **{name: name for name in ("asin", "acos", "atan")},
    **{"ln": "log", "abs": "Abs"},
}


def solve(equations: str, seconds: float = SECONDS) -> str:
    """The solutions of `equations`, which are separated by `,` or `;`."""
    command = [sys.executable, "-m", "xtuner.chat.plugins.solve"]
    try:
        done = subprocess.run(command, input=equations.encode(), capture_output=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise FormulaError(f"no solution was found within {seconds:g} s") from None
    answer = done.stdout.decode("utf-8", "replace").strip()
    if done.returncode == 2:
        raise FormulaError(answer)
    if done.returncode != 0:
        raise FormulaError("the equations are too large for the solver")
    return answer


def solutions(equations: str) -> str:
    """The solutions, found in this process without limits."""
    import sympy

    numbers = _Symbols(sympy)
    parts = [part for part in equations.replace("；", ";").replace(",", ";").split(";") if part.strip()]
    zeros = [_zero(part, numbers) for part in parts]
    unknown = sorted(numbers.unknown, key=str)
    if not unknown:
        raise FormulaError("there is no unknown to solve for, such as x in: x**2 = 4")
    if all(zero == 0 for zero in zeros):
        return "every number is a solution"
    try:
        found = sympy.solve(zeros, unknown, dict=True)
    except NotImplementedError as error:
        raise FormulaError(f"these equations cannot be solved: {error}") from None
    written = [", ".join(f"{name} = {value}" for name, value in one.items()) for one in found]
    return " or ".join(written) or "there is no solution"


def _zero(text: str, numbers: _Symbols) -> Any:
    """The equation `text` as an expression that equals zero."""
    left, *rest = text.replace("==", "=").split("=")
    if len(rest) > 1:
        raise FormulaError(f"{text.strip()!r} has more than one equals sign")
    zero = work_out(left, numbers)
    return zero - work_out(rest[0], numbers) if rest else zero


class _Symbols:
    """sympy's expressions, exact."""

    def __init__(self, sympy: Any) -> None:
        self._sympy = sympy
        self.unknown: set[Any] = set()

    def constant(self, value: int | float, source: str) -> Any:
        return self._sympy.Rational(source.replace("_", "")) if source else self._sympy.sympify(value)

    def name(self, name: str) -> Any:
        known = {"pi": self._sympy.pi, "e": self._sympy.E}
        if name in known:
            return known[name]
        symbol = self._sympy.Symbol(name)
        self.unknown.add(symbol)
        return symbol

    def operator(self, kind: type[ast.AST], left: Any, right: Any) -> Any:
        if kind not in _OPERATORS:
            raise FormulaError(f"{kind.__name__} cannot be solved; known are + - * / **")
        if kind is ast.Sub:
            return left - right
        if kind is ast.Div:
            return left / right
        return getattr(self._sympy, _OPERATORS[kind])(left, right)

    def call(self, name: str, arguments: list[Any]) -> Any:
        if name not in _FUNCTIONS:
            raise FormulaError(f"there is no function {name!r}; known are {', '.join(_FUNCTIONS)}")
        try:
            return getattr(self._sympy, _FUNCTIONS[name])(*arguments)
        except (TypeError, ValueError) as error:
            raise FormulaError(f"{name}: {error}") from None


def _main() -> int:
    # On a system without a memory limit the time limit remains.
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    try:
        answer, code = solutions(sys.stdin.buffer.read().decode()), 0
    except FormulaError as error:
        answer, code = str(error), 2
    sys.stdout.buffer.write(answer.encode())
    return code


if __name__ == "__main__":
    sys.exit(_main())
