"""Builds docs/draw.html, the page that reads drawn digits, from committed packed networks.

    make draw                                 # .venv/bin/python docs/draw/build.py [FILE]

Needs zig (pip install 'tbn-bench[mcu]'). The same records and the same version of zig give the same
bytes.
"""

import base64
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from string import Template

import torch
from torch import nn

from tbn_bench.experiment.skeleton import load
from tbn_bench.mcu import web
from tbn_bench.mcu.compile import compile_
from tbn_bench.mcu.program import Program
from tbn_bench.records.run import NETWORK, RunRecord
from tbn_bench.records.store import RunStore

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PAGE = ROOT / "docs" / "draw.html"
SWEEP = "mnist_cnn"
SEED = 0
TILED = "tbn(gradient='tile', min_layer_size=10000, p={p})"
METHODS = {
    "Float": "full_precision",
    "BWN": "bwn",
    "TBN-4": TILED.format(p=4),
    "TBN-8": TILED.format(p=8),
}


@dataclass(frozen=True)
class Network:
    """One column of the page."""

    label: str
    record: RunRecord
    program: Program

    @property
    def name(self) -> str:
        return f"digits_{self.record.run_id}"

    @property
    def path(self) -> Path:
        return self.record.path / NETWORK


def networks() -> list[Network]:
    """The networks of the page, read from their packed files."""
    store = RunStore(ROOT / "results")
    runs = {}
    for run in store.runs_of(SWEEP):
        if run.config["seed"] == SEED:
            runs[run.config["binarizer"]] = run
    found = []
    for label, binarizer in METHODS.items():
        record = runs[binarizer]
        program = _program(load(record.path / NETWORK))
        found.append(Network(label, record, program))
    return found


def _program(model: nn.Module) -> Program:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(8, 1, 28, 28, generator=generator)  # the graph is compared with torch on these
    return compile_(model, x, "f32", "generic")


def modules(shown: list[Network]) -> list[bytes]:
    """The WebAssembly modules. Raises ToolchainError without zig."""
    return [web.module(network.name, network.program) for network in shown]


def page(shown: list[Network], compiled: list[bytes], zig: str) -> str:
    """The page. zig: the version that compiled the modules."""
    entries = []
    for network, module in zip(shown, compiled, strict=True):
        entry = {
            "label": network.label,
            "about": web.about(network.name, network.program),
            "wasm": base64.b64encode(module).decode(),
        }
        entries.append(entry)
    template = Template((HERE / "page.html").read_text(encoding="utf-8"))
    return template.substitute(
        css=(HERE / "page.css").read_text(encoding="utf-8"),
        examples=_examples(),
        table=_table(shown),
        footer=_footer(shown, zig),
        loader=web.shared_loader(),
        networks=json.dumps(entries, indent=0),
        script=(HERE / "page.js").read_text(encoding="utf-8"),
    )


def _examples() -> str:
    buttons = []
    for digit in range(10):
        about = f'data-digit="{digit}" aria-label="Draw a {digit}"'
        buttons.append(f'<button type="button" {about}>{digit}</button>')
    return "".join(buttons)


def _table(shown: list[Network]) -> str:
    heads = []
    for column, network in enumerate(shown):
        answer = f'<span class="answer" id="answer-{column}">&ndash;</span>'
        heads.append(f'<th scope="col">{network.label}{answer}</th>')
    lines = [f'<thead><tr><th scope="col">Answer</th>{"".join(heads)}</tr></thead>', "<tbody>"]
    for digit in range(10):
        lines.append(_row(str(digit), [_share(column, digit) for column in range(len(shown))]))
    lines += ["</tbody>", "<tfoot>"]
    lines += [_row(name, values) for name, values in _facts(shown).items()]
    lines.append("</tfoot>")
    return "\n".join(lines) + "\n"


def _share(column: int, digit: int) -> str:
    place = f'id="share-{column}-{digit}"'
    bar = '<div class="bar" aria-hidden="true"><div></div></div>'
    return f"<td {place}><span>&ndash;</span>{bar}</td>"


def _row(name: str, cells: list[str]) -> str:
    return f'<tr><th scope="row">{name}</th>{"".join(cells)}</tr>'


def _facts(shown: list[Network]) -> dict[str, list[str]]:
    """Row -> cells, from the records."""
    facts = {
        "Bytes": [f"{n.record.summary['stored_bytes']:,}" for n in shown],
        "Operations": [f"{n.record.summary['distinct_macs'] / 1e6:.2f} M" for n in shown],
        "On MNIST": [f"{100 * n.record.summary['test/top1']:.2f} %" for n in shown],
    }
    return {name: [f"<td>{text}</td>" for text in texts] for name, texts in facts.items()}


def _footer(shown: list[Network], zig: str) -> str:
    runs = ", ".join(f"{n.label} {n.record.run_id}" for n in shown)
    return f"""<p>Runs of {SWEEP}: {runs}. Each network is the exported C library, compiled by zig
<span id="zig">{zig}</span> to WebAssembly (docs/browser.md). This page: make draw.</p>"""


def main() -> None:
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE
    shown = networks()
    compiled = modules(shown)
    target.write_text(page(shown, compiled, str(web.zig_version())), encoding="utf-8")
    print(f"{target}: {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
