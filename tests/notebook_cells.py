"""Runs a notebook's code cells as a notebook does, without Jupyter.

python tests/notebook_cells.py FILE      stores the outputs in the file
"""

import ast
import contextlib
import io
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any


def run(notebook: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """The outputs of each code cell, in the current folder."""
    names: dict[str, Any] = {"__name__": "__main__"}
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return [_outputs(cell, number, names) for number, cell in enumerate(cells, 1)]


def _outputs(cell: dict[str, Any], number: int, names: dict[str, Any]) -> list[dict[str, Any]]:
    """What a cell prints, and how its last expression displays."""
    code = ast.parse("".join(cell["source"]))
    last = code.body.pop() if isinstance(code.body[-1], ast.Expr) else None
    value = None
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(code, f"cell {number}", "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), names)
    found = []
    if out.getvalue():
        found.append({"name": "stdout", "output_type": "stream", "text": lines(out.getvalue())})
    if value is not None:
        shown = {"text/plain": lines(str(value))}
        if hasattr(value, "_repr_html_"):
            shown["text/html"] = lines(value._repr_html_())
        found.append({"data": shown, "execution_count": number, "metadata": {}, "output_type": "execute_result"})  # fmt: skip
    return found


def lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def store(file: Path) -> None:
    notebook = json.loads(file.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        outputs = run(notebook)
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for number, (cell, found) in enumerate(zip(cells, outputs, strict=True), 1):
        cell |= {"outputs": found, "execution_count": number}
    file.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    store(Path(sys.argv[1]).absolute())
