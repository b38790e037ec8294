"""The tools of a judge that uses tools. Each takes a line or a program as text and answers with text; an error is an
answer as well. Run in helper processes, which are killed at the limit.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping
from datetime import date, timedelta
from typing import Any

BIG = 10_000  # bits that a whole number may have
_BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_UNARY: dict[type, Callable[[Any], Any]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}
_NAMES: Mapping[str, Any] = {
    **{name: getattr(math, name) for name in ("pi", "e", "sqrt", "exp", "log", "log2", "log10", "sin", "cos", "tan")},
    **{name: getattr(math, name) for name in ("floor", "ceil", "gcd", "lcm", "comb", "factorial")},
    **{function.__name__: function for function in (abs, min, max, round)},
}
_DATE = r"(\d{4}-\d{2}-\d{2})"


def calculate(text: str) -> str:
    """The value of an arithmetic expression: + - * / // % ** ( ), and the functions that a pocket calculator has."""
    try:
        tree = ast.parse(text.strip().replace("^", "**").replace("×", "*").replace("÷", "/"), mode="eval")
        value = _value(tree.body)
    except (SyntaxError, ValueError, TypeError, ArithmeticError, RecursionError, MemoryError) as error:
        return f"error: {error}"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def _value(node: ast.AST) -> Any:
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return value
        case ast.BinOp(left, op, right) if type(op) in _BINARY:
            a, b = _value(left), _value(right)
            if isinstance(op, ast.Pow) and abs(b) * math.log2(abs(a) + 2) > BIG:
                raise ValueError("the result is too large")
            return _small(_BINARY[type(op)](a, b))
        case ast.UnaryOp(op, operand) if type(op) in _UNARY:
            return _UNARY[type(op)](_value(operand))
        case ast.Name(name) if isinstance(_NAMES.get(name), float):
            return _NAMES[name]
        case ast.Call(ast.Name(name), arguments, []) if callable(_NAMES.get(name)):
            given = [_value(argument) for argument in arguments]
            if name in ("factorial", "comb") and max(given) > 1000:
                raise ValueError("the result is too large")
            return _small(_NAMES[name](*given))
    raise ValueError(f"{ast.unparse(node)!r} is no arithmetic")


def _small(value: Any) -> Any:
    if isinstance(value, complex) or (isinstance(value, int) and value.bit_length() > BIG):
        raise ValueError("the result is no real number of a bearable size")
    return value


def calendar(text: str) -> str:
    """Dates as YYYY-MM-DD: a weekday ("2024-02-29"), days between two ("2024-02-29 to 2024-03-05"), a date some days
    away ("2024-02-29 + 30")."""
    try:
        if match := re.fullmatch(_DATE, text.strip()):
            return date.fromisoformat(match[1]).strftime("%A")
        if match := re.fullmatch(rf"{_DATE}\s*(?:to|until|,)\s*{_DATE}", text.strip()):
            return f"{(date.fromisoformat(match[2]) - date.fromisoformat(match[1])).days} days"
        if match := re.fullmatch(rf"{_DATE}\s*([+-])\s*(\d{{1,6}})(?:\s*days?)?", text.strip()):
            days = int(match[3]) * (1 if match[2] == "+" else -1)
            found = date.fromisoformat(match[1]) + timedelta(days)
            return f"{found.isoformat()}, {found.strftime('%A')}"
    except (ValueError, OverflowError) as error:
        return f"error: {error}"
    return "error: expected DATE, DATE to DATE, or DATE + DAYS, a date being YYYY-MM-DD"
