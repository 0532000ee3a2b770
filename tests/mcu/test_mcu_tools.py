"""Compilers and simulators for exported C: every pair that is present builds and runs a hand-written stand-in for an exported folder."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tbn_bench.mcu import cores, simulate, simulators, toolchain, unicorn_board

REQUIRED = os.environ.get("TBN_REQUIRE_MCU", "")  # pip, apt or all: these tools must be here
HARNESS = Path(toolchain.__file__).parent / "c" / "test"
INPUTS, OUTPUTS = 300, 3

HEADER = """
#ifndef STANDIN_H
#define STANDIN_H
#include <stdint.h>
#ifdef __AVR__
#define TBN_ROM __flash
#else
#define TBN_ROM
#endif
typedef enum { TBN_OK, TBN_E_ARENA = 2 } tbn_status;
typedef struct { uint8_t *arena; } tbn_ctx;
tbn_status standin_init(tbn_ctx *c, void *arena, uint32_t bytes);
IN *standin_input(tbn_ctx *c);
tbn_status standin_run(tbn_ctx *c);
const OUT *standin_output(const tbn_ctx *c);
uint32_t standin_argmax(const tbn_ctx *c);
tbn_status standin_selftest(tbn_ctx *c);
int standin_unused(int v);
#endif
"""

SOURCE = """
#include "standin.h"
static const TBN_ROM uint32_t signs[3][10] = {TABLE};
const TBN_ROM uint32_t standin_unused_table[50] = {1};
int standin_unused(int v) { return (int)standin_unused_table[v] * 3; }
tbn_status standin_init(tbn_ctx *c, void *arena, uint32_t bytes) {
    c->arena = (uint8_t *)arena;
    return bytes < ARENA ? TBN_E_ARENA : TBN_OK;
}
IN *standin_input(tbn_ctx *c) { return (IN *)(void *)(c->arena + 16); }
const OUT *standin_output(const tbn_ctx *c) { return (const OUT *)(const void *)c->arena; }
tbn_status standin_selftest(tbn_ctx *c) { return c->arena ? TBN_OK : TBN_E_ARENA; }
tbn_status standin_run(tbn_ctx *c) {
    const IN *x = standin_input(c);
    OUT *y = (OUT *)(void *)c->arena;
    for (uint16_t i = 0; i < 3; i++) {
        OUT sum = 0;
        for (uint16_t j = 0; j < 300; j++) sum = (signs[i][j / 32] >> (j % 32)) & 1 ? sum + (OUT)x[j] : sum - (OUT)x[j];
        y[i] = sum;
    }
    EXTRA
    return TBN_OK;
}
uint32_t standin_argmax(const tbn_ctx *c) {
    const OUT *y = standin_output(c);
    uint32_t best = 0;
    for (uint32_t i = 1; i < 3; i++) if (y[i] > y[best]) best = i;
    return best;
}
"""


def rows(array) -> str:
    if array.ndim > 1:
        return "{" + ", ".join(rows(a) for a in array) + "}"
    return (
        "{"
        + ", ".join(repr(v.item()) + ("f" if array.dtype == np.float32 else "") for v in array)
        + "}"
    )


class StandIn:
    """Three rows of 300 signs. Small whole numbers as inputs, so that float sums are exact in any order."""

    def __init__(self, folder: Path, f32: bool = False, extra: str = "", wrong: bool = False):
        rng = np.random.default_rng(0)
        self.folder, self.f32 = folder, f32
        self.words = rng.integers(0, 2**32, (OUTPUTS, 10), dtype=np.uint32)
        self.vectors = self.inputs(2)
        expected = self.outputs(self.vectors)
        arena = 16 + INPUTS * (4 if f32 else 1)
        types = {
            "IN": "float" if f32 else "uint8_t",
            "OUT": "float" if f32 else "int32_t",
            "ARENA": f"{arena}u",
            "EXTRA": extra,
        }
        shutil.copytree(HARNESS, folder / "test")
        for name in ("src", "extras"):
            (folder / name).mkdir()
        defines = "".join(f"#define {name} {text}\n" for name, text in types.items())
        (folder / "src" / "standin.h").write_text(defines + HEADER)
        (folder / "src" / "standin.c").write_text(SOURCE.replace("{TABLE}", rows(self.words)))
        (folder / "extras" / "model.json").write_text(json.dumps(
            {"name": "standin", "target": "generic", "activations": "f32" if f32 else "u8", "arena_bytes": arena, "input_len": INPUTS}
        ))  # fmt: skip
        (folder / "test" / "model.h").write_text(
            '#include "../src/standin.h"\n#define MODEL(f) standin_##f\n'
            f"#define MODEL_ARENA_BYTES {arena}u\n#define MODEL_INPUT_LEN {INPUTS}\n#define MODEL_OUTPUT_LEN {OUTPUTS}\n"
            f"#define MODEL_INPUT_T {types['IN']}\n#define MODEL_OUTPUT_T {types['OUT']}\n#define MODEL_F32 {int(f32)}\n"
        )
        stored = expected.view(np.uint32) if f32 else expected.copy()
        stored[1, 2] ^= wrong
        (folder / "test" / "vectors.h").write_text(
            f"#define VECTORS 2\nstatic const TBN_ROM MODEL_INPUT_T vectors[VECTORS][MODEL_INPUT_LEN] = {rows(self.vectors)};\n"
            f"static const TBN_ROM {'uint32_t' if f32 else 'int32_t'} expected[VECTORS][MODEL_OUTPUT_LEN] = {rows(stored)};\n"
        )

    def inputs(self, n: int) -> np.ndarray:
        return (
            np.random.default_rng(n)
            .integers(0, 256, (n, INPUTS))
            .astype(np.float32 if self.f32 else np.uint8)
        )

    def outputs(self, x: np.ndarray) -> np.ndarray:
        bits = (
            self.words[:, np.arange(INPUTS) // 32] >> (np.arange(INPUTS) % 32).astype(np.uint32)
        ) & 1
        return (x.astype(np.int64) @ (2 * bits.astype(np.int64) - 1).T).astype(
            np.float32 if self.f32 else np.int32
        )


def need(reason: str | None, *tools: str) -> None:
    """Skips with the install command, or fails where TBN_REQUIRE_MCU says that the tool must be here."""
    if reason is None:
        return
    tier = "pip" if {"zig", "unicorn"} & set(tools) else "apt"
    if REQUIRED in (tier, "all"):
        pytest.fail(f"TBN_REQUIRE_MCU={REQUIRED}: {reason}")
    pytest.skip(reason)


def built(standin: StandIn, core: str, cc: str = "gcc", **options) -> toolchain.Build:
    need(toolchain.missing(core, cc), cc)
    return toolchain.build(standin.folder, core, cc, **options)


def ran(build: toolchain.Build, sim: str, **options) -> simulate.Result:
    need(simulate.missing(build.core, sim), sim)
    return simulate.run(build, sim, **options)


PAIRS = [
    (cc, core)
    for cc in toolchain.COMPILERS
    for core, known in cores.CORES.items()
    if cc == "gcc" or known.zig is not None
]
RUNS = [
    (cc, core, sim)
    for cc, core in PAIRS
    for sim in simulators.SIMULATORS[cores.CORES[core].family]
    if (core, sim) != ("m55", "unicorn")
]


@pytest.fixture(scope="module")
def standins(tmp_path_factory) -> dict[bool, StandIn]:
    return {
        f32: StandIn(tmp_path_factory.mktemp("f32" if f32 else "u8"), f32) for f32 in (False, True)
    }


@pytest.mark.parametrize("f32", [False, True])
@pytest.mark.parametrize(("cc", "core", "sim"), RUNS)
def test_outputs_and_counts(standins, cc, core, sim, f32):
    standin = standins[f32]
    build = built(standin, core, cc)
    result = ran(build, sim)
    assert result.passed
    assert result.mismatches == 0
    np.testing.assert_array_equal(result.outputs, standin.outputs(standin.vectors))
    assert result.outputs.dtype == (np.float32 if f32 else np.int32)
    assert result.argmax == tuple(standin.outputs(standin.vectors).argmax(1))
    counts = result.cycles if sim == "simavr" else result.instructions
    if sim == "host":
        assert counts is None
        assert result.stack is None
    else:
        assert len(counts) == 2
        assert min(counts) > OUTPUTS * INPUTS  # each input is read once per output at least
        assert 0 < result.stack < 400
        assert ran(build, sim).text == result.text  # the same numbers each time
    if core != "uno":
        x = standin.inputs(1000)
        result = ran(build, sim, inputs=x)
        assert result.passed
        np.testing.assert_array_equal(result.outputs, standin.outputs(x))


@pytest.mark.parametrize("cc", toolchain.COMPILERS)
@pytest.mark.parametrize("core", ["m0", "m4"])
def test_the_two_counters_of_instructions_agree(standins, cc, core):
    build = built(standins[False], core, cc)
    np.testing.assert_allclose(
        ran(build, "qemu").instructions, ran(build, "unicorn").instructions, atol=3
    )


@pytest.mark.parametrize(("cc", "core"), [pair for pair in PAIRS if pair[1] != "host"])
def test_sizes_are_of_the_library_alone_without_what_is_unused(standins, cc, core):
    sizes = built(standins[False], core, cc).sizes
    assert sizes.constants == OUTPUTS * 10 * 4
    assert (sizes.data, sizes.bss) == (0, 0)
    assert 50 < sizes.code < 2000
    assert sizes.library_flash < sizes.flash
    assert sizes.ram > 16 + INPUTS  # the arena is the test program's
    if core not in ("m0", "rv32ec"):  # they have no multiplication, or no long one
        assert sizes.helpers < 16


@pytest.mark.parametrize("core", ["m0", "m3", "rv32imc", "uno"])
def test_float_routines_are_counted_where_the_processor_has_none(standins, core):
    assert built(standins[True], core).sizes.helpers > 300


def test_small_code_is_an_option(standins, tmp_path):
    small = built(standins[False], "m4", out=tmp_path / "small", optimize="-Os")
    assert small.elf.parent == tmp_path / "small"
    assert small.sizes.code <= built(standins[False], "m4").sizes.code
    with pytest.raises(ValueError, match="optimize must be one of -O2, -Os, got '-O3'"):
        toolchain.build(standins[False].folder, "m4", optimize="-O3")


@pytest.mark.parametrize(
    ("core", "sim"), [("host", "host"), ("m4", "qemu"), ("m4", "unicorn"), ("uno", "simavr")]
)
def test_one_wrong_output_is_a_mismatch(tmp_path, core, sim):
    result = ran(built(StandIn(tmp_path / "f", wrong=True), core), sim)
    assert result.mismatches == 1
    assert result.status != 0
    assert not result.passed


def test_without_icount_instructions_are_refused(standins, monkeypatch):
    build = built(standins[False], "m4")
    monkeypatch.setattr(simulate, "_ICOUNT", ())
    with pytest.raises(simulate.SimulationError, match="QEMU must run with -icount shift=6"):
        ran(build, "qemu")
    assert ran(build, "qemu", count=False).instructions is None


LOOPS = {
    "m4": '{ uint32_t n = 6000000; __asm__ volatile(".syntax unified\\n1: subs %0, %0, #1\\n bne 1b" : "+l"(n) : : "cc"); }',
    "uno": '{ for (uint16_t k = 0; k < 50; k++) { uint16_t n = 50000; __asm__ volatile("1: sbiw %0, 1\\n brne 1b" : "+w"(n)); } }',
}


@pytest.mark.parametrize(
    ("core", "sim", "more"), [("m4", "qemu", 12_000_000), ("uno", "simavr", 10_000_000)]
)
def test_long_runs_are_counted_exactly(standins, tmp_path, core, sim, more):
    short, long = (
        ran(built(s, core), sim)
        for s in (standins[False], StandIn(tmp_path / "f", extra=LOOPS[core]))
    )
    counts = [r.cycles if core == "uno" else r.instructions for r in (short, long)]
    assert 0 <= counts[1][0] - counts[0][0] - more < 1000


def test_a_run_too_long_for_unicorns_clock_is_refused(standins, monkeypatch):
    build = built(standins[False], "m4")
    monkeypatch.setattr(unicorn_board, "SYSTICK", 1 << 12)  # a run of 2^24 takes half a minute
    with pytest.raises(
        simulate.SimulationError, match="more than unicorn's SysTick counts; use qemu"
    ):
        ran(build, "unicorn")


def test_a_run_too_long_for_timer1_is_refused(tmp_path):
    build = built(StandIn(tmp_path / "uno", extra=LOOPS["uno"].replace("k < 50", "k < 400")), "uno")
    with pytest.raises(
        simulate.SimulationError, match="more than Timer1 counts; run with count=False"
    ):
        ran(build, "simavr")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (
            '__asm__ volatile("udf #1");',
            "processor (fault|exception)|stopped at 0x.*: Invalid instruction",
        ),
        ("for (;;) {}", "did not end within 3 s .* its last output: .*selftest 0"),
        ("c->arena[ARENA] = 1;", "written past the arena"),
        (
            "{ volatile uint8_t b[8000]; for (uint16_t k = 0; k < 8000; k++) b[k] = 1; y[0] = (OUT)b[7]; }",
            "stack overflow",
        ),
    ],
    ids=["crash", "hang", "arena", "stack"],
)
@pytest.mark.parametrize("sim", ["qemu", "unicorn"])
def test_a_program_that_goes_wrong_is_an_error(tmp_path, sim, extra, message):
    build = built(StandIn(tmp_path / "f", extra=extra), "m0")
    with pytest.raises(simulate.SimulationError, match=message):
        ran(build, sim, timeout=3)


def test_a_program_whose_init_fails_says_so(tmp_path):
    standin = StandIn(tmp_path / "f")
    model = standin.folder / "test" / "model.h"
    model.write_text(model.read_text().replace("ARENA_BYTES 316u", "ARENA_BYTES 300u"))
    with pytest.raises(simulate.SimulationError, match="init returned 2"):
        ran(built(standin, "host"), "host")


def test_a_crash_of_a_host_program_is_an_error(tmp_path):
    build = built(StandIn(tmp_path / "f", extra="__builtin_trap();"), "host")
    with pytest.raises(simulate.SimulationError, match="ended with status -4 before it was done"):
        ran(build, "host")


@pytest.mark.parametrize(("cc", "core"), [("gcc", "m0"), ("zig", "m0"), ("gcc", "uno")])
def test_a_program_too_large_for_the_board_is_named(tmp_path, cc, core):
    extra = "{ static volatile uint8_t large[30000]; large[x[0]] = 1; y[0] += large[x[0]]; }"
    with pytest.raises(
        toolchain.ToolchainError, match="the program does not fit the board's memory"
    ):
        built(StandIn(tmp_path / "f", extra=extra), core, cc)


@pytest.mark.parametrize(("core", "sim"), [("m4", "qemu"), ("uno", "simavr")])
def test_initialised_data_arrives_in_ram_and_is_counted(tmp_path, core, sim):
    extra = "{ static volatile int32_t five = 5; y[0] += five - 5; }"
    build = built(StandIn(tmp_path / "f", extra=extra), core)
    assert ran(build, sim).passed
    assert build.sizes.data == 4


def test_flags_can_be_added(tmp_path):
    """A sanitizer finds a write that the guards behind the arena do not."""
    extra = (
        "{ OUT z[3]; y = z; for (uint16_t k = 0; k < x[0] + 4u; k++) ((volatile OUT *)y)[k] = 1; }"
    )
    build = built(
        StandIn(tmp_path / "f", extra=extra), "host", extra_flags=["-fsanitize=address,undefined"]
    )
    with pytest.raises(
        simulate.SimulationError, match="on host ended with status .* before it was done"
    ):
        ran(build, "host")


def test_a_warning_in_the_library_is_an_error(tmp_path):
    with pytest.raises(
        toolchain.ToolchainError, match="gcc for host failed: .*standin.h.*conversion"
    ):
        built(StandIn(tmp_path / "f", extra="{ int32_t v = y[0]; c->arena[0] = v; }"), "host")


@pytest.mark.parametrize(
    ("core", "cc", "command"),
    [
        ("m4", "gcc", "apt-get install --no-install-recommends gcc-arm-none-eabi"),
        ("rv32ec", "gcc", "apt-get install --no-install-recommends gcc-riscv64-unknown-elf"),
        ("uno", "gcc", "apt-get install --no-install-recommends gcc-avr avr-libc"),
        ("host", "gcc", "apt-get install gcc libc6-dev"),
        ("m4", "zig", "pip install 'tbn-bench\\[mcu\\]'"),
        ("rv32ec", "zig", "use cc='gcc'"),
        ("uno", "zig", "use cc='gcc'"),
    ],
)
def test_a_missing_compiler_is_named_with_its_install_command(
    standins, monkeypatch, tmp_path, core, cc, command
):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(toolchain.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(toolchain.ToolchainError, match=command):
        toolchain.build(standins[False].folder, core, cc)


@pytest.mark.parametrize(
    ("core", "sim", "command"),
    [
        ("m4", "qemu", "install --no-install-recommends qemu-system-arm"),
        ("rv32imc", "qemu", "install --no-install-recommends qemu-system-misc"),
        ("uno", "simavr", "install --no-install-recommends simavr"),
        ("m4", "unicorn", "pip install 'tbn-bench\\[mcu\\]'"),
        ("m55", "unicorn", "does not know the processor m55; use qemu"),
        ("m4", "simavr", "simavr does not run programs for m4; use qemu or unicorn"),
        (
            "m4",
            None,
            "no simulator for m4: qemu-system-arm is not installed.*; or: unicorn is not installed",
        ),
    ],
)
def test_a_missing_simulator_is_named_with_its_install_command(
    monkeypatch, tmp_path, core, sim, command
):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(simulators.importlib.util, "find_spec", lambda name: None)
    build = toolchain.Build(
        tmp_path,
        core,
        "gcc",
        "-O2",
        tmp_path / "model.elf",
        toolchain.Sizes(0, 0, 0, 0, 0, 0, 0),
        "",
        {},
    )
    with pytest.raises(simulate.SimulationError, match=command):
        simulate.run(build, sim)


def test_bad_arguments_are_refused(standins, tmp_path):
    with pytest.raises(ValueError, match="core must be one of host, m0, .*, got 'm5'"):
        toolchain.build(tmp_path, "m5")
    with pytest.raises(ValueError, match="is not an exported C folder"):
        toolchain.build(tmp_path, "m4")
    build = built(standins[False], "host")
    with pytest.raises(
        ValueError,
        match=r"inputs must be \(images, input_len\) of uint8, got \(2, 300\) of float32",
    ):
        simulate.run(build, inputs=standins[True].vectors)
    with pytest.raises(ValueError, match="input_len 300"):
        simulate.run(build, inputs=standins[False].vectors[:, :-1])


def test_fits_real_boards():
    assert [fit.fits for fit in cores.fits("m0", 200 * 1024, 20 * 1024)] == [False, True]
    (uno,) = cores.fits("uno", 5000, 2500)
    assert not uno.fits
    assert uno.ram_left == -452


def test_the_makefile_builds_as_python_does(standins):
    text = (HARNESS / "Makefile").read_text()
    for core in cores.CORES.values():
        if core.family == "arm":
            flags = next(
                line for line in text.splitlines() if line.startswith(f"FLAGS_{core.name} =")
            )
            assert flags.split("=", 1)[1].split() == list(core.flags[1:])
            assert f"BOARD_{core.name} = {core.board}\n" in text
        elif core.family == "riscv":
            assert f"RISCV_{core.name} = {' '.join(core.flags)}\n" in text
    for flag in (
        *toolchain._COMMON,
        *toolchain._STRICT,
        "-std=c99",
        "-std=gnu99",
        "-Wl,--gc-sections",
    ):
        assert flag in text


@pytest.mark.parametrize("core", ["host", "m4", "rv32imc", "uno"])
def test_make_builds_and_runs(standins, core):
    need(None if shutil.which("make") else "make is not installed; run: apt-get install make")
    need(toolchain.missing(core, "gcc"), "gcc")
    sim = simulate.choose(core)
    if sim == "unicorn":
        need(simulate.missing(core, "qemu"), "qemu")
    command = ["make", "-C", str(standins[False].folder / "test"), f"CORE={core}", "run"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "mismatch 0" in done.stdout + done.stderr
