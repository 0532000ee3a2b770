"""YAML of sweeps and presets: PyYAML's safe loader, with three differences.

1e-3 is a number, as in YAML 1.2 (YAML 1.1 takes it for text). A key that is given twice is an
error. A file is bounded: in bytes, in values (with every alias written out), in depth and in the
digits of a number. Each bound is checked while reading, before memory is taken for the rest.
"""

import re
from pathlib import Path
from typing import Any

import yaml

LIMIT_BYTES = 250_000
LIMIT_VALUES = 20_000  # with every alias written out
LIMIT_DEPTH = 100
LIMIT_DIGITS = 100  # PyYAML takes quadratic time for a long 1:1:1... (base 60)
_SHOWN = 300  # letters of what PyYAML says: it repeats names in full
EXPONENT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)[eE][-+]?[0-9]+")
_FLOAT = "tag:yaml.org,2002:float"
_INT = "tag:yaml.org,2002:int"
_SPECIAL = ("tag:yaml.org,2002:merge", "tag:yaml.org,2002:value")  # << and =, no names of their own
_FAULTS = (  # of PyYAML's constructors, e.g. for `!!timestamp x`
    yaml.YAMLError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)


class _Loader(yaml.SafeLoader):
    def __init__(self, text: str):
        super().__init__(text)
        self.values = 0
        self.depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.values += 1
        self.depth += 1
        if self.values > LIMIT_VALUES:
            raise ValueError(
                f"it has too many values, expected at most {LIMIT_VALUES:,}; "
                "write less into one file"
            )
        if self.depth > LIMIT_DEPTH:
            raise ValueError(
                f"it is nested too deep, expected at most {LIMIT_DEPTH} levels; write it flat"
            )
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        seen: dict[Any, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag in _SPECIAL:
                continue
            value = self.construct_object(key)
            line = key.start_mark.line + 1
            if value in seen:
                raise ValueError(
                    f"line {line}: {_cut(repr(value))} is given twice, "
                    f"first in line {seen[value]}; keep one"
                )
            seen[value] = line
        return node

    def bounded_int(self, node: Any) -> Any:
        return self.construct_yaml_int(_bounded(node))

    def bounded_float(self, node: Any) -> Any:
        return self.construct_yaml_float(_bounded(node))


def _cut(text: str) -> str:
    if len(text) <= _SHOWN:
        return text
    half = _SHOWN // 2
    return f"{text[:half]}...{text[-half:]}"


def _bounded(node: Any) -> Any:
    """The node of a number. Raises ValueError where it is too long."""
    digits = len(node.value)
    if digits > LIMIT_DIGITS:
        line = node.start_mark.line + 1
        raise ValueError(
            f"line {line}: a number has {digits:,} digits, expected at most {LIMIT_DIGITS}; "
            "write text in quotes"
        )
    return node


_Loader.add_constructor(_INT, _Loader.bounded_int)
_Loader.add_constructor(_FLOAT, _Loader.bounded_float)
_Loader.add_implicit_resolver(_FLOAT, re.compile(f"(?:{EXPONENT.pattern})$"), list("-+.0123456789"))


def read(path: Path) -> Any:
    """The value of a YAML file. Raises ValueError, one line that names the file."""
    try:
        with path.open("rb") as file:
            content = file.read(LIMIT_BYTES + 1)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    if len(content) > LIMIT_BYTES:
        raise ValueError(
            f"{path} is too large: expected at most {LIMIT_BYTES:,} bytes of YAML; "
            "write less into one file"
        )
    try:
        return parse(content.decode("utf-8-sig"))
    except _FAULTS as error:
        said = " ".join(str(error).split())
        raise ValueError(f"{path} is not valid YAML: {_cut(said)}") from error


def parse(text: str) -> Any:
    """The value of a YAML text. Raises what PyYAML's constructors raise, and ValueError."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        values = _written_out(node, {})
        if values > LIMIT_VALUES:
            raise ValueError(
                f"it stands for {values:.3g} values, expected at most {LIMIT_VALUES:,}; "
                "use fewer aliases"
            )
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _written_out(node: yaml.Node, known: dict[int, float]) -> float:
    """Number of nodes below `node` and itself, each alias counted as what it stands for."""
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = float("inf")  # an alias inside its own anchor: it never ends
    children: list[yaml.Node] = []
    if isinstance(node, yaml.SequenceNode):
        children = node.value
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            children += [key, value]
    total = 1.0 + sum(_written_out(child, known) for child in children)
    known[id(node)] = total
    return total
