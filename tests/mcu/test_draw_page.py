"""docs/draw.html, the page that reads drawn digits: it is what the committed records give, and it computes what Python does."""

import base64
import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import CHROMIUM, Browser

from tbn_bench.experiment.skeleton import load
from tbn_bench.mcu import emulate, web

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "draw.html"
NODE = shutil.which("node")
SCRIPT = """
const fs = require("fs");
const { code, x } = JSON.parse(fs.readFileSync(0, "utf-8"));
const networks = new Function(code + "; return NETWORKS.map((n) => tbnNetwork(n.about).load(Buffer.from(n.wasm, 'base64')));")();
Promise.all(networks).then((loaded) => console.log(JSON.stringify(loaded.map((net) => Array.from(net.run(x))))));
"""
# a 4, in parts of the pad
FOUR = [[(0.4, 0.1), (0.2, 0.55), (0.8, 0.55)], [(0.65, 0.25), (0.6, 0.9)]]


def _builder():
    spec = importlib.util.spec_from_file_location("draw_build", ROOT / "docs" / "draw" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def built():
    """(the script that builds the page, its networks)."""
    builder = _builder()
    return builder, builder.networks()


@pytest.fixture(scope="module")
def committed():
    """(text of the page, its modules, the version of zig that made them)."""
    text = PAGE.read_text(encoding="utf-8")
    modules = [base64.b64decode(part) for part in re.findall(r'"wasm": "([^"]+)"', text)]
    return text, modules, re.search(r'id="zig">([^<]+)<', text)[1]


def test_the_page_is_built_from_the_committed_records(built, committed):
    builder, shown = built
    text, modules, zig = committed
    assert builder.page(shown, modules, zig) == text


def test_the_modules_hold_the_committed_networks(built, committed):
    """The tables of each network's C code are in its module, byte for byte."""
    _, shown = built
    _, modules, _ = committed
    tables = [network.program.table.astype("<u4").tobytes() for network in shown]
    assert all(table in module for table, module in zip(tables, modules, strict=True))


@pytest.mark.slow
def test_zig_makes_the_same_modules(built, committed):
    builder, shown = built
    _, modules, zig = committed
    if web.zig_version() != zig:
        pytest.skip(f"the page was made by zig {zig}: pip install ziglang=={zig}")
    assert builder.modules(shown) == modules


@pytest.mark.skipif(NODE is None, reason="node is missing; run: apt-get install nodejs")
def test_the_networks_of_the_page_compute_what_the_c_code_does(built, committed):
    """Bit for bit, in node."""
    _, shown = built
    text, _, _ = committed
    code = text[text.index("function tbnNetwork") : text.index("/* The pad,")]
    x = np.random.default_rng(0).random(784, np.float32)
    given = json.dumps({"code": code, "x": x.tolist()})
    done = subprocess.run([NODE, "-e", SCRIPT], input=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = [emulate.run(network.program, x[None])[0] for network in shown]
    assert np.array_equal(np.array(json.loads(done.stdout)), np.array(expected))


# In Chromium


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("chromium is missing; run: apt-get install chromium")
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


def _settle(browser):
    browser.run("new Promise((done) => setTimeout(done, 200)).then(() => true)")


def _draw(browser, strokes):
    """Draws on the pad with the mouse."""
    box = browser.run("(({x, y, width}) => [x, y, width])(pad.getBoundingClientRect())")
    for stroke in strokes:
        places = [(box[0] + x * box[2], box[1] + y * box[2]) for x, y in stroke]
        browser.mouse("mousePressed", *places[0], pressed=True)
        for place in places:
            browser.mouse("mouseMoved", *place, pressed=True)
        browser.mouse("mouseReleased", *places[-1])
    _settle(browser)


def _pixels(browser):
    return np.array(browser.run("Array.from(pixels)"), np.float32).reshape(28, 28)


def _shares(browser):
    return np.array(browser.run("networks.map((network) => network.shares)"))


def _by_torch(shown, pixels):
    """The probabilities of each network, from its packed file."""
    x = torch.from_numpy(pixels)[None, None]
    with torch.no_grad():
        return np.stack([load(network.path)(x).softmax(1)[0].numpy() for network in shown])


@pytest.mark.slow
def test_a_drawn_digit_gets_the_probabilities_that_python_computes(built, browser):
    """Strokes by mouse -> the page's pixels and probabilities; torch on the packed networks gives the same, and all read a 4."""
    _, shown = built
    browser.open(PAGE, ready="ready")
    _draw(browser, FOUR)
    shares = _shares(browser)
    assert np.abs(shares - _by_torch(shown, _pixels(browser))).max() < 1e-6
    assert (shares.argmax(1) == 4).all()
    assert browser.run("document.getElementById('share-3-4').textContent").endswith("%")
    assert browser.errors == []
    assert browser.requests == [PAGE.as_uri()]


@pytest.mark.slow
def test_a_drawing_is_prepared_as_mnist_is(browser):
    """Wherever and however large it is drawn: ink in a box of 20 pixels, its centre of mass at pixel 14."""
    browser.open(PAGE, ready="ready")
    small = [[(0.6 + 0.3 * x, 0.1 + 0.3 * y) for x, y in stroke] for stroke in FOUR]
    for strokes in (FOUR, small):
        browser.run("clear()")
        _draw(browser, strokes)
        pixels = _pixels(browser)
        rows, columns = (np.flatnonzero(pixels.any(axis)) for axis in (1, 0))
        assert 19 <= max(np.ptp(rows), np.ptp(columns)) + 1 <= 20
        places = np.arange(28) * pixels.sum(1), np.arange(28) * pixels.sum(0)
        assert np.allclose([place.sum() / pixels.sum() for place in places], 14, atol=0.02)


@pytest.mark.slow
def test_the_examples_are_read_by_all_networks(built, browser):
    """Ten buttons, and the probabilities are those of torch."""
    _, shown = built
    browser.open(PAGE, ready="ready")
    for digit in range(10):
        browser.run(f"document.querySelector('[data-digit=\"{digit}\"]').click()")
        _settle(browser)
        shares = _shares(browser)
        assert (shares.argmax(1) == digit).all()
        assert np.abs(shares - _by_torch(shown, _pixels(browser))).max() < 1e-6


@pytest.mark.slow
def test_the_keyboard_draws_and_a_screen_reader_is_told(browser):
    """Space puts the pen down, arrows move it, Escape clears; the answers are said once drawing rests."""
    browser.open(PAGE, ready="ready")
    browser.run("pad.focus()")
    browser.key(" ", 32, " ")
    for _ in range(9):
        browser.key("ArrowDown", 40)
    browser.until("told.textContent.startsWith('Float: 1, ')")
    assert _shares(browser).argmax(1).tolist() == [1, 1, 1, 1]
    browser.key("Escape", 27)
    browser.until("told.textContent === 'The pad is empty.'")


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_fits_a_phone_in_light_and_dark(browser, dark):
    browser.open(PAGE, width=390, dark=dark, ready="ready")
    assert browser.run("document.documentElement.scrollWidth") == 390
    ground = browser.run("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(22, 23, 26)" if dark else "rgb(255, 255, 255)")
