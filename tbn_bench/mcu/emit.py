"""An exported network as C text: header, tables and functions, a single file, test vectors."""

import zlib
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from tbn_bench import __version__
from tbn_bench.mcu import emulate, layout
from tbn_bench.mcu.c_text import array, float_text, hex_text, structs, types_of, unsigned
from tbn_bench.mcu.program import Op, Program

Array = NDArray[Any]
HERE = Path(__file__).parent / "c"
RUNTIME = ("tbn_rt.h", "tbn_rt.c")


def crc(table: Array) -> int:
    """CRC-32 of the little-endian words."""
    return zlib.crc32(table.astype("<u4").tobytes())


def header(name: str, prog: Program) -> str:
    upper = name.upper()
    return f"""{_usage(name, prog)}
#ifndef {upper}_H
#define {upper}_H

#include "tbn_rt.h"

#if TBN_RT_VERSION != 1
#error "{name} was exported for version 1 of tbn_rt; export it again, or use the tbn_rt.h and \
tbn_rt.c beside it"
#endif

{_constants(upper, prog)}

#ifdef __cplusplus
extern "C" {{
#endif

{_declarations(name, prog)}

#ifdef __cplusplus
}}
#endif

#endif
"""


def _usage(name: str, prog: Program) -> str:
    """The comment that the header opens with."""
    upper = name.upper()
    input_type, output_type = types_of(prog)
    arena = arena_type(prog)
    return f"""/* {name}: a network exported by tbn_bench {__version__}. Copy nothing by hand: \
the tables and this header belong together.
 *
 * {prog.input_len} inputs ({shape_text(prog)}), {input_type}; {prog.output_len} outputs, \
{output_type}.
 * Real value of input u: {upper}_INPUT_SCALE * (u - {upper}_INPUT_OFFSET); of output v: \
{upper}_OUTPUT_SCALE * v.
 *
 *     static {arena} arena[{upper}_ARENA_BYTES / 4];
 *     tbn_ctx ctx;
 *     if ({name}_init(&ctx, arena, sizeof arena) != TBN_OK) ...
 *     fill {name}_input(&ctx)[0 .. {prog.input_len - 1}]      before every run: a run overwrites \
its input
 *     {name}_run(&ctx);
 *     use {name}_argmax(&ctx), {name}_output(&ctx)
 *
 * Any number of contexts may be in use at once, each with an arena of its own. */"""


def _constants(upper: str, prog: Program) -> str:
    layout_number = layout.LAYOUTS[prog.bit_order]
    return f"""\
#define {upper}_ARENA_BYTES {prog.arena_bytes}u
#define {upper}_INPUT_LEN {prog.input_len}u
#define {upper}_OUTPUT_LEN {prog.output_len}u
#define {upper}_INPUT_SCALE {float_text(prog.input.scale)}
#define {upper}_INPUT_OFFSET {float_text(prog.input.offset)}
#define {upper}_OUTPUT_SCALE {float_text(prog.output_scale)}
#define {upper}_CRC32 {hex_text(crc(prog.table))}
#define {upper}_LAYOUT {layout_number} /* {prog.bit_order}, version {layout.VERSION} */"""


def _declarations(name: str, prog: Program) -> str:
    upper = name.upper()
    input_type, output_type = types_of(prog)
    return f"""\
/* arena: {upper}_ARENA_BYTES bytes, beginning at a multiple of 4; nothing is copied or \
allocated. */
tbn_status {name}_init(tbn_ctx *c, void *arena, uint32_t bytes);
/* Where inputs go: {upper}_INPUT_LEN values{_order(prog)}. */
{input_type} *{name}_input(tbn_ctx *c);
tbn_status {name}_run(tbn_ctx *c);
/* {upper}_OUTPUT_LEN values, valid until the next run. */
const {output_type} *{name}_output(const tbn_ctx *c);
/* The largest output; of equal ones the first. */
uint32_t {name}_argmax(const tbn_ctx *c);
/* Checks the tables and what every layer computes; overwrites the arena. Not linked unless \
called. */
tbn_status {name}_selftest(tbn_ctx *c);
void {name}_info(tbn_info *info);"""


def arena_type(prog: Program) -> str:
    """Element type of the arena. It is the type of the values, so that strict aliasing holds."""
    return "uint32_t" if prog.activations == "u8" else "float"


def shape_text(prog: Program) -> str:
    shape = prog.graph.shapes[0]
    lengths = map(str, shape)
    return " x ".join(lengths)


def _order(prog: Program) -> str:
    height, _, _ = prog.graph.shapes[0]
    if height == 1:
        return ""
    return ", (height, width, channels)"


def source(name: str, prog: Program) -> str:
    layers = []
    windows: list[str] = []
    ops = []
    at = 0  # words of the table before this op
    for i, op in enumerate(prog.ops):
        layers.append(_layer(name, op, at))
        at += len(op.table)
        window = "0"
        if op.function == "tbn_window_op":
            window = f"{name}_windows + {len(windows)}"
            windows.append(_window(prog, op))
        ops.append(_op(op, f"{name}_layers + {i}", window))

    words = [hex_text(word) for word in prog.table]
    parts = [f'/* {name}: tables and functions; see {name}.h. */\n#include "{name}.h"\n']
    if prog.activations == "f32":
        parts.append(_STRICT_FLOAT)
    table = array("uint32_t", f"{name}_table", words)
    parts.append(f"/* Weights, scales and biases of all layers. */\n{table}")
    parts.append(structs("tbn_layer", f"{name}_layers", layers))
    if windows:
        parts.append(structs("tbn_window", f"{name}_windows", windows))
    parts.append(structs("tbn_op", f"{name}_ops", ops))
    parts.append(_functions(name, prog))
    return "\n".join(parts)


_STRICT_FLOAT = """#if defined(__FAST_MATH__) || (defined(__FLT_EVAL_METHOD__) && \
__FLT_EVAL_METHOD__ != 0 && __FLT_EVAL_METHOD__ != 16)
#error "float results are the same on every target without -ffast-math and with float arithmetic \
in float; for i386 add -msse2 -mfpmath=sse"
#endif
"""


def _pointer(name: str, length: int, at: int) -> str:
    return f"{name}_table + {at}" if length else "0"


def _layer(name: str, op: Op, at: int) -> str:
    """A tbn_layer. at: words of the table before this op."""
    node = op.node
    where = []
    for values in (op.weights, op.scales, op.biases):
        length = 0 if values is None else len(values)
        where.append(_pointer(name, length, at))
        at += length

    sizes = [0, 0] if node.kind == "add" else [node.columns, node.rows]
    segments = [0, 1, 0]
    if node.kind == "tiled":
        segments = [node.segment, node.per_input, node.per_tile]
    flags = [int(op.per_row), int(op.wide), int(node.relu)]
    numbers = [op.run, op.bias_unit, *sizes, *segments, *flags]
    fields = ", ".join([*where, *map(str, numbers)])
    return f"    /* {node.name}, {node.kind} */\n    {{{fields}}}"


def _window(prog: Program, op: Op) -> str:
    """A tbn_window."""
    w = op.node.window
    assert w is not None
    pixel_bytes = op.out_bytes // (w.out[0] * w.out[1])
    numbers = [
        *w.shape,
        *w.out,
        *w.kernel,
        *w.stride,
        *w.dilation,
        *w.padding,
        pixel_bytes,
        prog.element,
        int(w.channels_first),
        op.pad,
        op.patch_at,
    ]
    fields = unsigned(numbers)
    return f"    /* {op.node.name} */\n    {{{fields}}}"


def _op(op: Op, layer: str, window: str) -> str:
    """A tbn_op. layer, window: C expressions of its pointers."""
    row = op.row or "0"
    places = [op.in_at, op.out_at, op.scratch_at]
    sizes = [op.in_bytes, op.out_bytes]
    numbers = unsigned(places + sizes)
    return f"    {{{op.function}, {row}, {layer}, {window}, {numbers}}}"


def _functions(name: str, prog: Program) -> str:
    upper = name.upper()
    input_type, output_type = types_of(prog)
    out = prog.output_op
    is_float = int(prog.activations == "f32")
    short = "f32" if is_float else "i32"
    expected = ", ".join(hex_text(v) for v in emulate.checksums(prog))
    return f"""static const TBN_ROM tbn_model {name}_model = {{\
{name}_ops, {name}_table, {len(prog.table)}u, {upper}_CRC32, {upper}_ARENA_BYTES, \
{out.out_at}u, {out.out_bytes}u, {len(prog.ops)}u, {is_float}u}};

tbn_status {name}_init(tbn_ctx *c, void *arena, uint32_t bytes)
{{
    return tbn_init(c, &{name}_model, arena, bytes);
}}

{input_type} *{name}_input(tbn_ctx *c)
{{
    return ({input_type} *)(void *)(c->arena + {prog.ops[0].in_at}u);
}}

tbn_status {name}_run(tbn_ctx *c)
{{
    return tbn_run(c, &{name}_model);
}}

const {output_type} *{name}_output(const tbn_ctx *c)
{{
    return (const {output_type} *)(const void *)(c->arena + {out.out_at}u);
}}

uint32_t {name}_argmax(const tbn_ctx *c)
{{
    return tbn_argmax_{short}({name}_output(c), {upper}_OUTPUT_LEN);
}}

void {name}_info(tbn_info *info)
{{
    info->rt_version = TBN_RT_VERSION;
    info->layout = {upper}_LAYOUT;
    info->crc32 = {upper}_CRC32;
    info->arena_bytes = {upper}_ARENA_BYTES;
    info->input_len = {upper}_INPUT_LEN;
    info->output_len = {upper}_OUTPUT_LEN;
    info->input_scale = {upper}_INPUT_SCALE;
    info->input_offset = {upper}_INPUT_OFFSET;
    info->output_scale = {upper}_OUTPUT_SCALE;
}}

/* Here and not in a file of its own: the tables are static. Checksums of what each operation \
computes. */
static const TBN_ROM uint32_t {name}_expected[{len(prog.ops) + 1}] = {{{expected}}};

tbn_status {name}_selftest(tbn_ctx *c)
{{
    return tbn_selftest(c, &{name}_model, {name}_expected);
}}
"""


def single(name: str, prog: Program) -> str:
    """A library as one header.

    Any file may include it. One C file defines NAME_IMPLEMENTATION before it does.
    """
    upper = name.upper()
    runtime_header, runtime_source = [(HERE / file).read_text() for file in RUNTIME]
    return f"""/* {name} in one file. In exactly one C file:
 *     #define {upper}_IMPLEMENTATION
 *     #include "{name}_single.h" */
{_without_includes(runtime_header)}
{_without_includes(header(name, prog))}
#ifdef {upper}_IMPLEMENTATION
#ifndef TBN_RT_IMPLEMENTED
#define TBN_RT_IMPLEMENTED
{_without_includes(runtime_source)}
#endif
{_without_includes(source(name, prog))}
#endif
"""


def _without_includes(text: str) -> str:
    kept = []
    for line in text.splitlines(keepends=True):
        if not line.startswith('#include "'):
            kept.append(line)
    return "".join(kept)
