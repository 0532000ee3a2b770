"""Exported networks as WebAssembly: the module in node against the emulation of the C code, and what a browser does not get."""

import json
import shutil
import subprocess

import numpy as np
import pytest
import torch
from torch import nn

from tbn_bench import catalog, cli
from tbn_bench.convert import binarize
from tbn_bench.mcu import compile as compiling
from tbn_bench.mcu import emulate, toolchain, web
from tbn_bench.mcu.errors import ToolchainError
from tbn_bench.mcu.graph import McuError

NODE = shutil.which("node")
needs_zig = pytest.mark.skipif(
    web.zig_version() is None, reason="zig is missing; run: pip install 'tbn-bench[mcu]'"
)
needs_node = pytest.mark.skipif(NODE is None, reason="node is missing; run: apt-get install nodejs")
SCRIPT = """
const fs = require("fs");
const { loader, wasm, inputs } = JSON.parse(fs.readFileSync(0, "utf-8"));
const net = new Function("module", loader + "; return net;")({});
net.load(fs.readFileSync(wasm)).then((module) => {
  const probabilities = Array.from(module.probabilities(inputs[0]));
  const outputs = inputs.map((x) => Array.from(module.run(x)));
  let refused;
  try { module.run([1, 2]); } catch (error) { refused = error.message; }
  console.log(JSON.stringify({ outputs, probabilities, refused }));
});
"""


def program(activations):
    """(program, inputs as the C code takes them) of a small tiled network."""
    torch.manual_seed(0)
    model = catalog.build(
        "models", "micro_cnn(channels=[4, 8])", num_classes=10, in_shape=(1, 8, 8)
    )
    binarize.binarize_(model, "tbn(p=4, min_layer_size=0)")
    x = torch.rand(6, 1, 8, 8)
    prog = compiling.compile_(model.eval(), x, activations, "generic")
    return prog, compiling.quantised(prog, None, x)


def in_node(loader, wasm, inputs):
    """What the script prints of a module, for some inputs."""
    given = json.dumps({"loader": loader, "wasm": str(wasm), "inputs": inputs.tolist()})
    done = subprocess.run([NODE, "-e", SCRIPT], input=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@needs_zig
@needs_node
@pytest.mark.parametrize("activations", ["u8", "f32"])
def test_a_module_computes_what_the_c_code_does(activations, tmp_path):
    """Bit for bit, in node, through the loader; the self-test inside has passed then."""
    prog, inputs = program(activations)
    path = tmp_path / "net.wasm"
    path.write_bytes(web.module("net", prog))
    found = in_node(web.loader("net", prog), path, inputs)
    expected = emulate.run(prog, inputs) * float(prog.output_scale)
    assert np.array_equal(np.array(found["outputs"]), expected)
    powers = np.exp(expected[0] - expected[0].max())
    assert np.allclose(found["probabilities"], powers / powers.sum(), atol=1e-12)
    assert found["refused"] == "net takes 64 values (8 x 8 x 1), got 2"


@pytest.mark.parametrize(
    ("limit", "said"),
    [("TABLE_BYTES", "bytes of tables; a browser gets at most 10"), ("ARENA_BYTES", "memory")],
)
def test_a_network_that_is_too_large_for_a_browser(limit, said, monkeypatch):
    prog, _ = program("f32")
    monkeypatch.setattr(web, limit, 10)
    with pytest.raises(McuError, match=said):
        web.module("net", prog)


def test_the_limit_is_on_what_the_tables_hold():
    """2.1 million float32 weights are more than 8 MiB; one bit each is less."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(1100, 2000, bias=False)).eval()
    x = torch.rand(2, 1100)
    with pytest.raises(McuError, match="use fewer weights, binary ones, or a larger p"):
        web.check_size(compiling.compile_(model, x, "f32", "generic"))
    binarize.binarize_(model, "bwn")
    web.check_size(compiling.compile_(model, x, "f32", "generic"))


def test_without_zig_the_error_says_how_to_install_it(monkeypatch):
    prog, _ = program("f32")
    monkeypatch.setattr(toolchain.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ToolchainError, match=r"zig is not installed; run: pip install 'tbn-bench"):
        web.module("net", prog)
    assert web.zig_version() is None


def test_names_are_names_in_javascript_too():
    assert web.js_name("function") == "net_function"
    assert web.js_name("digits") == "digits"


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--zip", "--zip is for format c, got wasm"),
        ("--target=m4", "--target is for format c, got m4 with wasm"),
        ("--fold-normalisation", "--fold-normalisation is for pt2 and onnx, got wasm"),
    ],
)
def test_flags_of_other_formats_are_refused(flag, said, capsys):
    assert cli.main(["export", "ab", "--format", "wasm", flag]) == 1
    assert said in capsys.readouterr().err
