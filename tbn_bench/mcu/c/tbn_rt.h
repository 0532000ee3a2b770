/* tbn_rt: runtime of exported tbn_bench networks. C99, C++ safe; no malloc, no globals, nothing of libc but memcpy and memset.
 *
 * One file for every model. A model is constant tables of operations (tbn_op); each names the functions it needs, so that a linker with
 * --gc-sections keeps only those. All state lies in a tbn_ctx and in the arena that the caller gives it: one pair per thread is enough.
 *
 * Numeric contract. u8 networks: activations are bytes, sums of weights times activations are exact in int32, and an output is
 *     clamp((sum of acc_i * M_i + B * bias_unit + 2^31) >> 32)        in int64, one rounding, floor shift
 * the same on every target. f32 networks with tiled weights: additions in the order written here and one product per scale, never fused:
 * the same bits on every target with IEEE float32.
 *
 * Deviations from MISRA C:2012: right shift of negative numbers is arithmetic (10.1), words are read from byte arrays by memcpy, an object
 * is read as float through a union (19.2), pointers to the arena are cast to the type that lies there (11.3).
 *
 * The functions are weak symbols where the compiler has them: several exported libraries in one program share one runtime. On AVR tables
 * must lie in the first 64 KB of flash. */
#ifndef TBN_RT_H
#define TBN_RT_H

#include <stdint.h>

#define TBN_RT_VERSION 1

#if defined(__BYTE_ORDER__) && defined(__ORDER_BIG_ENDIAN__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#error "tables and self-test are for little-endian machines"
#endif

/* Orders of weight bits in a 32-bit word; each segment of a tile begins a word and is filled with clear bits (tbn_bench/mcu/layout.py). */
#define TBN_LAYOUT_NAT 1   /* bit l is the weight of input l */
#define TBN_LAYOUT_LANE4 2 /* bit 8 b + 7 - t is the weight of input 4 t + b; words of four segments interleaved */

#if defined(__AVR__) && !defined(__cplusplus)
#define TBN_ROM __flash /* tables stay in program memory; C++ code only passes their addresses on */
#else
#define TBN_ROM
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum tbn_status {
    TBN_OK = 0,
    TBN_E_ARG = 1,      /* a null pointer, or a context that this model's init has not made */
    TBN_E_ARENA = 2,    /* the arena is smaller than NAME_ARENA_BYTES */
    TBN_E_ALIGN = 3,    /* the arena does not begin at a multiple of 4 */
    TBN_E_CRC = 4,      /* a weight table has changed since it was exported */
    TBN_E_SELFTEST = 5  /* a layer computes other numbers than it should */
} tbn_status;

/* One user of a model. Treat as opaque. */
typedef struct tbn_ctx {
    uint8_t *arena;
    const TBN_ROM struct tbn_model *model;
    uint32_t crc;
    uint8_t probing;
} tbn_ctx;

typedef struct tbn_info {
    uint16_t rt_version, layout;
    uint32_t crc32, arena_bytes, input_len, output_len;
    float input_scale, input_offset; /* real value of input u: input_scale * (u - input_offset); 1 and 0 in f32 networks */
    float output_scale;              /* real value of output v: output_scale * v */
} tbn_info;

/* A row of outputs from a row of inputs: a linear layer, or a convolution at one pixel.
 * Tiled: per_tile segments of `segment` weights; input segment k meets tile segment c = (row * per_input + k) mod per_tile. */
typedef struct tbn_layer {
    const TBN_ROM uint32_t *weights;
    const TBN_ROM uint32_t *scales; /* int32 M, or float bits */
    const TBN_ROM uint32_t *biases; /* int32 B, or float bits; one per output, or null */
    uint32_t run;                   /* consecutive segments under one scale; whole tiles where they hold whole rows */
    int32_t bias_unit;              /* u8: a power of two */
    uint16_t inputs, outputs, segment, per_input, per_tile;
    uint8_t per_row;    /* a new scale begins with each output too */
    uint8_t wide;       /* u8: outputs are int32, not bytes */
    uint8_t relu;       /* f32; in u8 the clamp does it */
} tbn_layer;

/* Where a window lies at each output pixel. Maps are (height, width, channels). */
typedef struct tbn_window {
    uint16_t in_h, in_w, channels, out_h, out_w, kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left;
    uint16_t out_bytes;     /* of one output pixel */
    uint8_t element;        /* bytes of an input element */
    uint8_t channels_first; /* the patch is (channels, kernel_h, kernel_w), else (kernel_h, kernel_w, channels) */
    uint32_t pad;           /* the element outside the map */
    uint32_t patch;         /* arena offset */
} tbn_window;

typedef void (*tbn_row)(tbn_ctx *c, const TBN_ROM tbn_layer *layer, const void *x, void *y, void *scratch);

typedef struct tbn_op {
    void (*run)(tbn_ctx *c, const TBN_ROM struct tbn_op *op);
    tbn_row row;
    const TBN_ROM tbn_layer *layer;
    const TBN_ROM tbn_window *window;
    uint32_t in, out, scratch; /* arena offsets */
    uint32_t in_bytes, out_bytes;
} tbn_op;

typedef struct tbn_model {
    const TBN_ROM tbn_op *ops;
    const TBN_ROM uint32_t *table;    /* all weights, scales and biases */
    uint32_t table_words, crc32, arena_bytes;
    uint32_t out, out_bytes; /* the outputs: arena offset */
    uint16_t op_count;
    uint8_t f32;
} tbn_model;

/* What the functions of a model call. */
tbn_status tbn_init(tbn_ctx *c, const TBN_ROM tbn_model *model, void *arena, uint32_t bytes);
tbn_status tbn_run(tbn_ctx *c, const TBN_ROM tbn_model *model);
tbn_status tbn_selftest(tbn_ctx *c, const TBN_ROM tbn_model *model, const TBN_ROM uint32_t *expected);
uint32_t tbn_argmax_i32(const int32_t *v, uint32_t n);
uint32_t tbn_argmax_f32(const float *v, uint32_t n);

/* Values of tbn_op.run. */
void tbn_linear(tbn_ctx *c, const TBN_ROM tbn_op *op);
void tbn_window_op(tbn_ctx *c, const TBN_ROM tbn_op *op);
void tbn_add_u8(tbn_ctx *c, const TBN_ROM tbn_op *op);
void tbn_add_f32(tbn_ctx *c, const TBN_ROM tbn_op *op);

/* Values of tbn_op.row. */
void tbn_tiled_u8_nat(tbn_ctx *c, const TBN_ROM tbn_layer *layer, const void *x, void *y, void *scratch);
void tbn_tiled_u8_lane4(tbn_ctx *c, const TBN_ROM tbn_layer *layer, const void *x, void *y, void *scratch);
void tbn_tiled_f32_nat(tbn_ctx *c, const TBN_ROM tbn_layer *layer, const void *x, void *y, void *scratch);
void tbn_dense_i8(tbn_ctx *c, const TBN_ROM tbn_layer *layer, const void *x, void *y, void *scratch);
void tbn_dense_f32(tbn_ctx *c, const TBN_ROM tbn_layer *layer, const void *x, void *y, void *scratch);
void tbn_depthwise_i8(tbn_ctx *c, const TBN_ROM tbn_layer *layer, const void *x, void *y, void *scratch);
void tbn_depthwise_f32(tbn_ctx *c, const TBN_ROM tbn_layer *layer, const void *x, void *y, void *scratch);
void tbn_max_u8(tbn_ctx *c, const TBN_ROM tbn_layer *layer, const void *x, void *y, void *scratch);
void tbn_max_f32(tbn_ctx *c, const TBN_ROM tbn_layer *layer, const void *x, void *y, void *scratch);
void tbn_mean_u8(tbn_ctx *c, const TBN_ROM tbn_layer *layer, const void *x, void *y, void *scratch);
void tbn_mean_f32(tbn_ctx *c, const TBN_ROM tbn_layer *layer, const void *x, void *y, void *scratch);
void tbn_affine_u8(tbn_ctx *c, const TBN_ROM tbn_layer *layer, const void *x, void *y, void *scratch);
void tbn_pad_u8(tbn_ctx *c, const TBN_ROM tbn_layer *layer, const void *x, void *y, void *scratch);
void tbn_pad_f32(tbn_ctx *c, const TBN_ROM tbn_layer *layer, const void *x, void *y, void *scratch);
void tbn_lookup_u8(tbn_ctx *c, const TBN_ROM tbn_layer *layer, const void *x, void *y, void *scratch);
void tbn_affine_f32(tbn_ctx *c, const TBN_ROM tbn_layer *layer, const void *x, void *y, void *scratch);

#ifdef __cplusplus
}
#endif

#endif
