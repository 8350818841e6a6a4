"""A formula as Python's syntax tree, restricted to arithmetic; nothing is executed.

    "2x^2 = sqrt(8)"  ->  "2*x**2", "sqrt(8)"  ->  BinOp(Mult, 2, BinOp(Pow, x, 2)), Call(sqrt, 8)

A `Numbers` says what to make of constants, names, operators and functions: floats, or sympy's expressions.
"""

from __future__ import annotations

import ast
import re
from typing import Any, Protocol

MAX_LENGTH = 1000  # characters
_SIGNS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "（": "(", "）": ")", "，": ",", "＝": "="})
_NUMBER_BEFORE_FACTOR = re.compile(r"(?<![\w.])(\d+\.?\d*|\.\d+)\s*(?=[A-Za-z(])(?![eE][+-]?\d)")


class FormulaError(ValueError):
    """The model's formula cannot be evaluated; the message is for the model."""


class Numbers(Protocol):
    """The meaning of the parts of a formula."""

    def constant(self, value: int | float, source: str) -> Any:
        """A number; `source` is its text."""

    def name(self, name: str) -> Any:
        """A name."""

    def operator(self, kind: type[ast.AST], left: Any, right: Any) -> Any:
        """Two numbers, one of `+ - * / // % **` between them."""

    def call(self, name: str, arguments: list[Any]) -> Any:
        """A function of numbers."""


def work_out(text: str, numbers: Numbers) -> Any:
    """The value of `text`, built by `numbers`; FormulaError if it is not a formula."""
    source = normal(text)
    try:
        tree = ast.parse(source, mode="eval")
        return _walk(tree.body, source, numbers)
    except SyntaxError as error:
        raise FormulaError(f"{text!r} is not a formula: {error.msg}") from None
    except (RecursionError, MemoryError):
        raise FormulaError("the formula is nested too deeply") from None
    except ZeroDivisionError:
        raise FormulaError("division by zero") from None
    except OverflowError:
        raise FormulaError("the result is too large") from None


def normal(text: str) -> str:
    """`text` in Python's spelling: `^` is a power, `2x` a product."""
    if len(text) > MAX_LENGTH:
        raise FormulaError(f"the formula has {len(text)} characters, more than {MAX_LENGTH}")
    text = text.translate(_SIGNS).replace("^", "**").strip()
    text = re.sub(r"\)\s*(?=[\w(])", ")*", text)
    return _NUMBER_BEFORE_FACTOR.sub(r"\1*", text)


def _walk(node: ast.AST, source: str, numbers: Numbers) -> Any:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return numbers.constant(node.value, ast.get_source_segment(source, node) or "")  # type: ignore[arg-type]
    if isinstance(node, ast.Name):
        return numbers.name(node.id)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.UAdd, ast.USub)):
        value = _walk(node.operand, source, numbers)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp):
        left, right = _walk(node.left, source, numbers), _walk(node.right, source, numbers)
        return numbers.operator(type(node.op), left, right)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        return numbers.call(node.func.id, [_walk(argument, source, numbers) for argument in node.args])
    raise FormulaError(f"{ast.get_source_segment(source, node) or source!r} is not part of a formula")
