"""Numbers and tables as C."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tbn_bench.mcu.graph import Array
from tbn_bench.mcu.program import Program

_LINE = 8


def array(kind: str, name: str, items: list[str]) -> str:
    """A constant array, _LINE items to a line."""
    lines = []
    for first in range(0, len(items), _LINE):
        line = ", ".join(items[first : first + _LINE])
        lines.append(f"    {line}")
    body = ",\n".join(lines)
    return f"static const TBN_ROM {kind} {name}[{len(items)}] = {{\n{body}}};\n"


def structs(kind: str, name: str, items: list[str]) -> str:
    """A constant array of structs, one to a line."""
    body = ",\n".join(items)
    return f"static const TBN_ROM {kind} {name}[] = {{\n{body}}};\n"


def hex_text(v: Any) -> str:
    return f"0x{int(v):08X}u"


def float_text(v: float) -> str:
    """A C float literal that gives exactly this float32."""
    text = f"{np.float32(v):.9g}"
    is_integer = not any(ch in text for ch in ".en")
    if is_integer:
        text += ".0"
    return f"{text}f"


def unsigned(numbers: list[int]) -> str:
    literals = [f"{n}u" for n in numbers]
    return ", ".join(literals)


def rows(values: Array, text: Callable[[Any], str]) -> str:
    """The rows of a two-dimensional C array. text: a value -> its literal."""
    lines = []
    for row in values:
        line = ", ".join(text(v) for v in row)
        lines.append(f"    {{{line}}}")
    return ",\n".join(lines)


def int32_text(v: Any) -> str:
    if int(v) == -(2**31):
        return "-2147483647 - 1"  # C has no literal for it
    return str(int(v))


def types_of(prog: Program) -> tuple[str, str]:
    """C types of (inputs, outputs)."""
    if prog.activations == "u8":
        return "uint8_t", "int32_t"
    return "float", "float"
