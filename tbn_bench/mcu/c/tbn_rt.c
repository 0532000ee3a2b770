/* Runtime of exported tbn_bench networks; see tbn_rt.h. */
#include "tbn_rt.h"

#include <stddef.h>

#if defined(__GNUC__) /* needs no header of a C library */
#define TBN_COPY(to, from, n) __builtin_memcpy(to, from, (size_t)(n))
#define TBN_SET(to, byte, n) __builtin_memset(to, byte, (size_t)(n))
#else
#include <string.h>
#define TBN_COPY(to, from, n) memcpy(to, from, (size_t)(n))
#define TBN_SET(to, byte, n) memset(to, byte, (size_t)(n))
#endif

/* f32 results are the same on every target only where a product is rounded before it is added. */
#if defined(__clang__)
#pragma clang fp contract(off)
#elif defined(__GNUC__) && !defined(__AVR__)
#pragma GCC push_options
#pragma GCC optimize("fp-contract=off")
#endif

#if defined(__GNUC__)
#define TBN_SHARED __attribute__((weak)) /* each exported library brings these along */
#else
#define TBN_SHARED
#endif

#if defined(__ARM_FEATURE_MVE)
#include <arm_mve.h>
#endif

#define TBN_HALF ((int64_t)1 << 31)

typedef char tbn_needs_bytes_of_8_bits[(sizeof(uint32_t) == 4 && sizeof(float) == 4) ? 1 : -1];

static uint32_t tbn_load(const uint8_t *p)
{
    uint32_t v;
    TBN_COPY(&v, p, sizeof v);
    return v;
}

/* Short copies: a call of memcpy costs more than they do. */
static uint8_t *tbn_copy(uint8_t *to, const uint8_t *from, uint32_t n)
{
#if defined(__ARM_FEATURE_UNALIGNED)
    for (; n >= 4; n -= 4, to += 4, from += 4)
        TBN_COPY(to, from, 4);
#endif
    while (n--)
        *to++ = *from++;
    return to;
}

static float tbn_float(uint32_t bits)
{
    union { uint32_t u; float f; } v;
    v.u = bits;
    return v.f;
}

static void tbn_crc_byte(uint32_t *crc, uint8_t byte)
{
    uint32_t v = *crc ^ byte;
    uint8_t i;
    for (i = 0; i < 8; i++)
        v = (v >> 1) ^ ((v & 1u) ? 0xEDB88320u : 0u);
    *crc = v;
}

/* What a layer has summed up, before scales round it, goes into the self-test's checksum. */
static void tbn_probe(tbn_ctx *c, const void *data, uint32_t bytes)
{
    const uint8_t *p = (const uint8_t *)data;
    if (c->probing)
        while (bytes--)
            tbn_crc_byte(&c->crc, *p++);
}

/* ---- scales ---- */

static int64_t tbn_bias(const TBN_ROM tbn_layer *layer, uint32_t row)
{
    if (layer->biases == 0)
        return TBN_HALF;
    return TBN_HALF + (int64_t)(int32_t)layer->biases[row] * layer->bias_unit;
}

static uint8_t tbn_clamp(int64_t sum)
{
    int32_t v = (int32_t)(sum >> 32);
#if defined(__ARM_FEATURE_SAT) && defined(__GNUC__)
    __asm__("usat %0, #8, %0" : "+r"(v));
    return (uint8_t)v;
#else
    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
#endif
}

static void tbn_put(const TBN_ROM tbn_layer *layer, void *y, uint32_t row, int64_t sum)
{
    if (layer->wide)
        ((int32_t *)y)[row] = (int32_t)(sum >> 32);
    else
        ((uint8_t *)y)[row] = tbn_clamp(sum);
}

/* The tile holds whole rows: each copy of it scales the same sums, by one scale or by one per row. */
static void tbn_gather_rows_u8(const TBN_ROM tbn_layer *layer, const int32_t *d, void *y)
{
    const TBN_ROM uint32_t *scale = layer->scales, *bias = layer->biases;
    const int32_t unit = layer->bias_unit;
    const uint32_t per_row = layer->per_row, wide = layer->wide;
    const int32_t *const end = d + layer->per_tile;
    uint8_t *bytes = (uint8_t *)y;
    int32_t *words = (int32_t *)y;
    uint32_t copies = layer->outputs / layer->per_tile, left = layer->run;
    for (; copies; copies--) {
        const int32_t *sum;
        for (sum = d; sum != end; sum++) {
            int64_t v = TBN_HALF + (int64_t)*sum * (int32_t)*scale;
            scale += per_row;
            if (bias != 0)
                v += (int64_t)(int32_t)*bias++ * unit;
            if (wide)
                *words++ = (int32_t)(v >> 32);
            else
                *bytes++ = tbn_clamp(v);
        }
        left -= layer->per_tile;
        if (!per_row && left == 0) {
            left = layer->run;
            scale++;
        }
    }
}

/* Outputs from the distinct sums d[k * per_tile + c] of tile segment c and input segment k. */
static void tbn_gather_u8(const TBN_ROM tbn_layer *layer, const int32_t *d, void *y)
{
    const TBN_ROM uint32_t *scale = layer->scales;
    const uint32_t rows = layer->outputs, per_input = layer->per_input, per_tile = layer->per_tile, run = layer->run;
    const uint32_t per_row = layer->per_row;
    uint32_t row, c = 0, left = run;
    if (per_input == 1) {
        tbn_gather_rows_u8(layer, d, y);
        return;
    }
    for (row = 0; row < rows; row++) {
        int64_t sum = tbn_bias(layer, row);
        uint32_t k = 0;
        do {
            uint32_t take = per_input - k < left ? per_input - k : left;
            int32_t acc = 0;
            left -= take;
            do {
                acc += d[k * per_tile + c];
                c = c + 1 == per_tile ? 0 : c + 1;
                k++;
            } while (--take);
            sum += (int64_t)acc * (int32_t)*scale;
            if (left == 0)
                left = run;
            if (left == run || (per_row && k == per_input))
                scale++;
        } while (k < per_input);
        tbn_put(layer, y, row, sum);
    }
}

static void tbn_gather_f32(const TBN_ROM tbn_layer *layer, const float *d, float *y)
{
    const TBN_ROM uint32_t *scale = layer->scales;
    const uint32_t per_input = layer->per_input, per_tile = layer->per_tile, run = layer->run;
    uint32_t row, c = 0, left = run;
    for (row = 0; row < layer->outputs; row++) {
        float sum = layer->biases == 0 ? 0.0f : tbn_float(layer->biases[row]);
        uint32_t k = 0;
        do {
            uint32_t take = per_input - k < left ? per_input - k : left;
            float acc = 0.0f;
            left -= take;
            do {
                acc += d[k * per_tile + c];
                c = c + 1 == per_tile ? 0 : c + 1;
                k++;
            } while (--take);
            sum += acc * tbn_float(*scale);
            if (left == 0)
                left = run;
            if (left == run || (layer->per_row && k == per_input))
                scale++;
        } while (k < per_input);
        y[row] = layer->relu && !(sum > 0.0f) ? 0.0f : sum;
    }
}

/* ---- tiled weights, byte activations ---- */

/* A sum of signs times bytes is twice the sum under the set bits, minus this. */
static uint32_t tbn_total(const uint8_t *x, uint32_t n)
{
    uint32_t s = 0;
    while (n--)
        s += *x++;
    return s;
}

#if defined(__ARM_FEATURE_MVE)

/* Sixteen weight bits are the predicate of an add across sixteen bytes. */
static void tbn_dot_nat(const TBN_ROM tbn_layer *layer, const uint8_t *x, int32_t *d)
{
    const uint32_t words = (layer->segment + 31u) / 32u;
    uint32_t k, c, w;
    for (k = 0; k < layer->per_input; k++, x += layer->segment) {
        const uint32_t *bits = layer->weights;
        uint32_t total = 0;
        for (w = 0; w < layer->segment; w += 16)
            total = vaddvaq_p_u8(total, vldrbq_u8(x + w), vctp8q(layer->segment - w));
        for (c = layer->per_tile; c >= 4; c -= 4, bits += 4 * words) {
            uint32_t a0 = 0, a1 = 0, a2 = 0, a3 = 0;
            for (w = 0; w < words; w++) {
                const uint8x16_t low = vldrbq_u8(x + 32 * w), high = vldrbq_u8(x + 32 * w + 16);
                const uint32_t b0 = bits[w], b1 = bits[words + w], b2 = bits[2 * words + w], b3 = bits[3 * words + w];
                a0 = vaddvaq_p_u8(vaddvaq_p_u8(a0, low, (mve_pred16_t)b0), high, (mve_pred16_t)(b0 >> 16));
                a1 = vaddvaq_p_u8(vaddvaq_p_u8(a1, low, (mve_pred16_t)b1), high, (mve_pred16_t)(b1 >> 16));
                a2 = vaddvaq_p_u8(vaddvaq_p_u8(a2, low, (mve_pred16_t)b2), high, (mve_pred16_t)(b2 >> 16));
                a3 = vaddvaq_p_u8(vaddvaq_p_u8(a3, low, (mve_pred16_t)b3), high, (mve_pred16_t)(b3 >> 16));
            }
            d[0] = (int32_t)(2 * a0 - total), d[1] = (int32_t)(2 * a1 - total);
            d[2] = (int32_t)(2 * a2 - total), d[3] = (int32_t)(2 * a3 - total);
            d += 4;
        }
        for (; c; c--, bits += words) {
            uint32_t a = 0;
            for (w = 0; w < words; w++) {
                a = vaddvaq_p_u8(a, vldrbq_u8(x + 32 * w), (mve_pred16_t)bits[w]);
                a = vaddvaq_p_u8(a, vldrbq_u8(x + 32 * w + 16), (mve_pred16_t)(bits[w] >> 16));
            }
            *d++ = (int32_t)(2 * a - total);
        }
    }
}

#else

/* The sums of every subset of four inputs, doubled, looked up by four weight bits. */
static void tbn_subsets(const uint8_t *x, uint16_t *t)
{
    const uint16_t a = (uint16_t)(2u * x[0]), b = (uint16_t)(2u * x[1]), ab = (uint16_t)(a + b), e = (uint16_t)(2u * x[2]);
    uint16_t f = (uint16_t)(2u * x[3]);
    t[0] = 0, t[1] = a, t[2] = b, t[3] = ab;
    t[4] = e, t[5] = (uint16_t)(e + a), t[6] = (uint16_t)(e + b), t[7] = (uint16_t)(e + ab);
    t[8] = f, t[9] = (uint16_t)(f + a), t[10] = (uint16_t)(f + b), t[11] = (uint16_t)(f + ab);
    f = (uint16_t)(f + e);
    t[12] = f, t[13] = (uint16_t)(f + a), t[14] = (uint16_t)(f + b), t[15] = (uint16_t)(f + ab);
}

#if defined(__AVR__)

/* Eight inputs at a time: their two tables are 64 bytes of stack. */
static void tbn_dot_nat(const TBN_ROM tbn_layer *layer, const uint8_t *x, int32_t *d)
{
    const uint16_t stride = (uint16_t)((layer->segment + 31u) / 32u * 4u), bytes = (uint16_t)((layer->segment + 7u) / 8u);
    const uint16_t per_tile = layer->per_tile;
    uint16_t low[16], high[16], k, c, b;
    for (k = layer->per_input; k; k--, x += layer->segment, d += per_tile) {
        const int32_t start = -(int32_t)tbn_total(x, layer->segment);
        for (c = 0; c < per_tile; c++)
            d[c] = start;
        for (b = 0; b < bytes; b++) {
            const TBN_ROM uint8_t *bits = (const TBN_ROM uint8_t *)layer->weights + b;
            int32_t *sum = d;
            tbn_subsets(x + 8 * b, low);
            tbn_subsets(x + 8 * b + 4, high);
            for (c = per_tile; c; c--, bits += stride) {
                const uint8_t v = *bits;
                *sum++ += (uint16_t)(low[v & 15u] + high[v >> 4]);
            }
        }
    }
}

#else

static void tbn_dot_nat(const TBN_ROM tbn_layer *layer, const uint8_t *x, int32_t *d)
{
    const uint32_t words = (layer->segment + 31u) / 32u, per_tile = layer->per_tile;
    uint16_t t[8][16];
    uint32_t k, c, w, i;
    for (k = 0; k < layer->per_input; k++, x += layer->segment, d += per_tile) {
        const int32_t start = -(int32_t)tbn_total(x, layer->segment);
        for (c = 0; c < per_tile; c++)
            d[c] = start;
        for (w = 0; w < words; w++) {
            const uint32_t *bits = layer->weights + w;
            int32_t *sum = d;
            for (i = 0; i < 8; i++)
                tbn_subsets(x + 32 * w + 4 * i, t[i]);
            for (c = per_tile; c; c--, bits += words) {
                const uint32_t v = *bits;
                *sum++ += (int32_t)((uint32_t)t[0][v & 15] + t[1][v >> 4 & 15] + t[2][v >> 8 & 15] + t[3][v >> 12 & 15]
                                    + t[4][v >> 16 & 15] + t[5][v >> 20 & 15] + t[6][v >> 24 & 15] + t[7][v >> 28]);
            }
        }
    }
}

#endif
#endif

TBN_SHARED void tbn_tiled_u8_nat(tbn_ctx *c, const TBN_ROM tbn_layer *layer, const void *x, void *y, void *scratch)
{
    int32_t *d = (int32_t *)scratch;
    tbn_dot_nat(layer, (const uint8_t *)x, d);
    tbn_probe(c, d, (uint32_t)layer->per_tile * layer->per_input * 4u);
    tbn_gather_u8(layer, d, y);
}

#if (defined(__ARM_FEATURE_DSP) || defined(__ARM_FEATURE_SIMD32)) && defined(__GNUC__)
#define TBN_DSP 1
#else
#define TBN_DSP 0
#endif

#if TBN_DSP

/* Doubles the four lanes of a word of weights; where a lane's top bit falls out, its byte of x is added to a sum. UADD8 leaves the carries
 * in the GE flags, by which SEL picks: three instructions for four products. Each in one statement with its reader, since compilers do not
 * know of GE; two rows in one, which leaves registers to every compiler and level. */
#define TBN_ROW(w, a) "uadd8 %" w ", %" w ", %" w "\n\tsel %4, %5, %6\n\tusada8 %" a ", %4, %6, %" a "\n\t"
#define TBN_TWO(wa, aa, wb, ab, x)                                                                      \
    do {                                                                                                \
        uint32_t t_;                                                                                    \
        __asm__(TBN_ROW("0", "1") TBN_ROW("2", "3")                                                     \
                : "+&r"(wa), "+&r"(aa), "+&r"(wb), "+&r"(ab), "=&r"(t_) : "r"(x), "r"(zero));           \
    } while (0)
#define TBN_STEP4(at)                          \
    do {                                       \
        const uint32_t x_ = tbn_load(p + (at)); \
        TBN_TWO(w0, a0, w1, a1, x_);           \
        TBN_TWO(w2, a2, w3, a3, x_);           \
    } while (0)

static uint32_t tbn_total4(const uint8_t *x, uint32_t n)
{
    uint32_t total = 0;
    const uint32_t zero = 0;
    for (; n >= 16; n -= 16, x += 16) {
        const uint32_t a = tbn_load(x), b = tbn_load(x + 4), c = tbn_load(x + 8), e = tbn_load(x + 12);
        __asm__("usada8 %0, %1, %5, %0\n\tusada8 %0, %2, %5, %0\n\tusada8 %0, %3, %5, %0\n\tusada8 %0, %4, %5, %0"
                : "+&r"(total) : "r"(a), "r"(b), "r"(c), "r"(e), "r"(zero));
    }
    return total + tbn_total(x, n);
}

/* Sums under the set bits of four interleaved segments; bits: their next word. The last word of a segment stops at its inputs' end. */
__attribute__((noinline)) static void tbn_four(const uint32_t *bits, const uint8_t *p, uint32_t segment, uint32_t *a)
{
    uint32_t a0 = 0, a1 = 0, a2 = 0, a3 = 0, w0, w1, w2, w3;
    const uint32_t zero = 0;
    const uint8_t *const whole = p + (segment & ~31u), *const end = p + segment;
    for (; p != whole; p += 32, bits += 4) {
        w0 = bits[0], w1 = bits[1], w2 = bits[2], w3 = bits[3];
        TBN_STEP4(0);
        TBN_STEP4(4);
        TBN_STEP4(8);
        TBN_STEP4(12);
        TBN_STEP4(16);
        TBN_STEP4(20);
        TBN_STEP4(24);
        TBN_STEP4(28);
    }
    if (p != end) {
        w0 = bits[0], w1 = bits[1], w2 = bits[2], w3 = bits[3];
        for (; p < end; p += 4)
            TBN_STEP4(0);
    }
    a[0] = a0, a[1] = a1, a[2] = a2, a[3] = a3;
}

static uint32_t tbn_one(const uint32_t *bits, const uint8_t *p, uint32_t segment)
{
    uint32_t a = 0, t, w = 0, step = 0;
    const uint32_t zero = 0;
    const uint8_t *const end = p + segment;
    for (; p < end; p += 4, step++) {
        const uint32_t x = tbn_load(p);
        if (step % 8 == 0)
            w = *bits++;
        __asm__("uadd8 %0, %0, %0\n\tsel %2, %3, %4\n\tusada8 %1, %2, %4, %1" : "+&r"(w), "+&r"(a), "=&r"(t) : "r"(x), "r"(zero));
    }
    return a;
}

#else /* the same in C, for tests on other machines */

static uint32_t tbn_total4(const uint8_t *x, uint32_t n)
{
    return tbn_total(x, n);
}

static uint32_t tbn_step(uint32_t w, const uint8_t *p)
{
    uint32_t t, s = 0;
    for (t = 0; t < 8; t++, w = (w & 0x7F7F7F7Fu) << 1) {
        const uint32_t v = tbn_load(p + 4 * t) & ((w >> 7 & 0x01010101u) * 255u);
        s += (v & 255u) + (v >> 8 & 255u) + (v >> 16 & 255u) + (v >> 24);
    }
    return s;
}

static uint32_t tbn_one(const TBN_ROM uint32_t *bits, const uint8_t *p, uint32_t segment)
{
    const uint8_t *const end = p + segment;
    uint32_t a = 0;
    for (; p < end; p += 32)
        a += tbn_step(*bits++, p);
    return a;
}

static void tbn_four(const TBN_ROM uint32_t *bits, const uint8_t *p, uint32_t segment, uint32_t *a)
{
    const uint8_t *const end = p + segment;
    a[0] = a[1] = a[2] = a[3] = 0;
    for (; p < end; p += 32, bits += 4) {
        a[0] += tbn_step(bits[0], p), a[1] += tbn_step(bits[1], p);
        a[2] += tbn_step(bits[2], p), a[3] += tbn_step(bits[3], p);
    }
}

#endif

static void tbn_dot_lane4(const TBN_ROM tbn_layer *layer, const uint8_t *x, int32_t *d)
{
    const uint32_t segment = layer->segment, words = (segment + 31u) / 32u;
    uint32_t k, c, a[4];
    for (k = layer->per_input; k; k--, x += segment) {
        const TBN_ROM uint32_t *bits = layer->weights;
        const uint32_t total = tbn_total4(x, segment);
        for (c = layer->per_tile; c >= 4; c -= 4, bits += 4 * words) { /* four segments share each load of inputs */
            tbn_four(bits, x, segment, a);
            d[0] = (int32_t)(2 * a[0] - total), d[1] = (int32_t)(2 * a[1] - total);
            d[2] = (int32_t)(2 * a[2] - total), d[3] = (int32_t)(2 * a[3] - total);
            d += 4;
        }
        for (; c; c--, bits += words)
            *d++ = (int32_t)(2 * tbn_one(bits, x, segment) - total);
    }
}

TBN_SHARED void tbn_tiled_u8_lane4(tbn_ctx *c, const TBN_ROM tbn_layer *layer, const void *x, void *y, void *scratch)
{
    int32_t *d = (int32_t *)scratch;
    tbn_dot_lane4(layer, (const uint8_t *)x, d);
    tbn_probe(c, d, (uint32_t)layer->per_tile * layer->per_input * 4u);
    tbn_gather_u8(layer, d, y);
}

/* ---- tiled weights, float activations ---- */

/* (+-x0 +-x1) + (+-x2 +-x3) for every choice of signs. */
static void tbn_signed_sums(float x0, float x1, float x2, float x3, float *t)
{
    const float a = x0 + x1, b = x0 - x1, e = x2 + x3, f = x2 - x3;
    float v;
    v = a + e, t[15] = v, t[0] = -v;
    v = e - b, t[14] = v, t[1] = -v;
    v = b + e, t[13] = v, t[2] = -v;
    v = e - a, t[12] = v, t[3] = -v;
    v = a - f, t[11] = v, t[4] = -v;
    v = -b - f, t[10] = v, t[5] = -v;
    v = b - f, t[9] = v, t[6] = -v;
    v = -a - f, t[8] = v, t[7] = -v;
}

static void tbn_dot_f32(const TBN_ROM tbn_layer *layer, const float *x, float *d)
{
    const uint32_t segment = layer->segment, words = (segment + 31u) / 32u, per_tile = layer->per_tile;
    float t[8][16];
    uint32_t k, c, w, i;
    for (k = 0; k < layer->per_input; k++, x += segment, d += per_tile) {
        for (c = 0; c < per_tile; c++)
            d[c] = 0.0f;
        for (w = 0; w < words; w++) {
            const TBN_ROM uint32_t *bits = layer->weights + w;
            const uint32_t n = segment - 32 * w < 32 ? segment - 32 * w : 32;
            const float *p = x + 32 * w;
            for (i = 0; i < n / 4; i++, p += 4)
                tbn_signed_sums(p[0], p[1], p[2], p[3], t[i]);
            if (n % 4) /* inputs that are missing count as 0 */
                tbn_signed_sums(p[0], n % 4 > 1 ? p[1] : 0.0f, n % 4 > 2 ? p[2] : 0.0f, 0.0f, t[i]);
            if (n > 28)
                for (c = 0; c < per_tile; c++, bits += words) {
                    const uint32_t v = *bits;
                    float s = t[0][v & 15] + t[1][v >> 4 & 15];
                    s += t[2][v >> 8 & 15], s += t[3][v >> 12 & 15], s += t[4][v >> 16 & 15];
                    s += t[5][v >> 20 & 15], s += t[6][v >> 24 & 15], s += t[7][v >> 28];
                    d[c] += s;
                }
            else
                for (c = 0; c < per_tile; c++, bits += words) {
                    uint32_t v = *bits;
                    float s = t[0][v & 15];
                    for (i = 1; 4 * i < n; i++)
                        v >>= 4, s += t[i][v & 15];
                    d[c] += s;
                }
        }
    }
}

TBN_SHARED void tbn_tiled_f32_nat(tbn_ctx *c, const TBN_ROM tbn_layer *layer, const void *x, void *y, void *scratch)
{
    float *d = (float *)scratch;
    tbn_dot_f32(layer, (const float *)x, d);
    tbn_probe(c, d, (uint32_t)layer->per_tile * layer->per_input * 4u);
    tbn_gather_f32(layer, d, (float *)y);
}

/* ---- weights kept in full precision: int8 with byte activations, else float ---- */

#if TBN_DSP
#define TBN_PAIR(name, v, out) __asm__(name : "=r"(out) : "r"(v))
#define TBN_MADD(w, x, acc) __asm__("smlad %0, %1, %2, %0" : "+r"(acc) : "r"(w), "r"(x))
#define TBN_DENSE4(w, acc)                             \
    do {                                               \
        uint32_t even_, odd_;                          \
        TBN_PAIR("sxtb16 %0, %1", w, even_);           \
        TBN_PAIR("sxtb16 %0, %1, ror #8", w, odd_);    \
        TBN_MADD(even_, even, acc);                    \
        TBN_MADD(odd_, odd, acc);                      \
    } while (0)
#define TBN_SPLIT(v)                                   \
    uint32_t even, odd;                                \
    TBN_PAIR("uxtb16 %0, %1", v, even);                \
    TBN_PAIR("uxtb16 %0, %1, ror #8", v, odd)
#else
static int32_t tbn_dense4(uint32_t w, uint32_t x)
{
    return (int8_t)(w & 255u) * (int32_t)(x & 255u) + (int8_t)(w >> 8 & 255u) * (int32_t)(x >> 8 & 255u)
           + (int8_t)(w >> 16 & 255u) * (int32_t)(x >> 16 & 255u) + (int8_t)(w >> 24) * (int32_t)(x >> 24);
}
#define TBN_DENSE4(w, acc) (acc += tbn_dense4(w, all))
#define TBN_SPLIT(v) const uint32_t all = (v)
#endif

static void tbn_dense_put(tbn_ctx *c, const TBN_ROM tbn_layer *layer, uint32_t row, int32_t acc, void *y)
{
    tbn_probe(c, &acc, sizeof acc);
    tbn_put(layer, y, row, tbn_bias(layer, row) + (int64_t)acc * (int32_t)layer->scales[layer->per_row ? row : 0]);
}

/* Weights: four to a word; words of four rows interleaved, the remaining rows one after another. */
TBN_SHARED void tbn_dense_i8(tbn_ctx *c, const TBN_ROM tbn_layer *layer, const void *x, void *y, void *scratch)
{
    const TBN_ROM uint32_t *w = layer->weights;
    const uint8_t *const begin = (const uint8_t *)x, *const end = begin + ((layer->inputs + 3u) & ~3u);
    const uint8_t *p;
    uint32_t row = 0;
    (void)scratch;
    for (; row + 4 <= layer->outputs; row += 4) {
        int32_t a0 = 0, a1 = 0, a2 = 0, a3 = 0;
        for (p = begin; p != end; p += 4, w += 4) {
            const uint32_t w0 = w[0], w1 = w[1], w2 = w[2], w3 = w[3];
            TBN_SPLIT(tbn_load(p));
            TBN_DENSE4(w0, a0);
            TBN_DENSE4(w1, a1);
            TBN_DENSE4(w2, a2);
            TBN_DENSE4(w3, a3);
        }
        tbn_dense_put(c, layer, row, a0, y), tbn_dense_put(c, layer, row + 1, a1, y);
        tbn_dense_put(c, layer, row + 2, a2, y), tbn_dense_put(c, layer, row + 3, a3, y);
    }
    for (; row < layer->outputs; row++) {
        int32_t a = 0;
        for (p = begin; p != end; p += 4) {
            const uint32_t v = *w++;
            TBN_SPLIT(tbn_load(p));
            TBN_DENSE4(v, a);
        }
        tbn_dense_put(c, layer, row, a, y);
    }
}

/* -DTBN_FMA=1 fuses the products of weights kept in full precision where the hardware can: fewer instructions, other last bits. */
#if defined(TBN_FMA) && TBN_FMA && defined(__ARM_FEATURE_FMA)
#define TBN_MUL_ADD(a, w, x) ((a) = __builtin_fmaf(w, x, a))
#else
#define TBN_MUL_ADD(a, w, x) ((a) += (w) * (x))
#endif

static void tbn_put_f32(tbn_ctx *c, const TBN_ROM tbn_layer *layer, uint32_t row, float acc, float *y)
{
    float v = layer->biases == 0 ? 0.0f : tbn_float(layer->biases[row]);
    tbn_probe(c, &acc, sizeof acc);
    v += acc * tbn_float(layer->scales[layer->per_row ? row : 0]);
    y[row] = layer->relu && !(v > 0.0f) ? 0.0f : v;
}

/* Weights: float bits; of four rows interleaved, the remaining rows one after another. */
TBN_SHARED void tbn_dense_f32(tbn_ctx *c, const TBN_ROM tbn_layer *layer, const void *x, void *y, void *scratch)
{
    const TBN_ROM uint32_t *w = layer->weights;
    const float *const begin = (const float *)x, *const end = begin + layer->inputs;
    const float *p;
    float *out = (float *)y;
    uint32_t row = 0;
    (void)scratch;
    for (; row + 4 <= layer->outputs; row += 4) {
        float a0 = 0.0f, a1 = 0.0f, a2 = 0.0f, a3 = 0.0f;
        for (p = begin; p != end; p++, w += 4) {
            const float v = *p;
            TBN_MUL_ADD(a0, tbn_float(w[0]), v);
            TBN_MUL_ADD(a1, tbn_float(w[1]), v);
            TBN_MUL_ADD(a2, tbn_float(w[2]), v);
            TBN_MUL_ADD(a3, tbn_float(w[3]), v);
        }
        tbn_put_f32(c, layer, row, a0, out), tbn_put_f32(c, layer, row + 1, a1, out);
        tbn_put_f32(c, layer, row + 2, a2, out), tbn_put_f32(c, layer, row + 3, a3, out);
    }
    for (; row < layer->outputs; row++) {
        float a = 0.0f;
        for (p = begin; p != end; p++, w++)
            TBN_MUL_ADD(a, tbn_float(*w), *p);
        tbn_put_f32(c, layer, row, a, out);
    }
}

/* Weights as the patch: (kernel_h, kernel_w, channels), one filter per channel; bytes four to a word. */
TBN_SHARED void tbn_depthwise_i8(tbn_ctx *c, const TBN_ROM tbn_layer *layer, const void *x, void *y, void *scratch)
{
    const uint8_t *p = (const uint8_t *)x;
    uint32_t channel, i;
    (void)scratch;
    for (channel = 0; channel < layer->outputs; channel++) {
        int32_t a = 0;
        for (i = channel; i < layer->inputs; i += layer->outputs)
            a += (int8_t)(layer->weights[i / 4] >> 8 * (i % 4) & 255u) * (int32_t)p[i];
        tbn_dense_put(c, layer, channel, a, y);
    }
}

TBN_SHARED void tbn_depthwise_f32(tbn_ctx *c, const TBN_ROM tbn_layer *layer, const void *x, void *y, void *scratch)
{
    const float *p = (const float *)x;
    uint32_t channel, i;
    (void)scratch;
    for (channel = 0; channel < layer->outputs; channel++) {
        float a = 0.0f;
        for (i = channel; i < layer->inputs; i += layer->outputs)
            TBN_MUL_ADD(a, tbn_float(layer->weights[i]), p[i]);
        tbn_put_f32(c, layer, channel, a, (float *)y);
    }
}

/* ---- pooling, normalisation by itself: per channel, over the patch; scales of the latter and of sums are M / 2^24 ---- */

TBN_SHARED void tbn_max_u8(tbn_ctx *c, const TBN_ROM tbn_layer *layer, const void *x, void *y, void *scratch)
{
    const uint8_t *p = (const uint8_t *)x;
    uint8_t *out = (uint8_t *)y;
    uint32_t channel, i;
    (void)c, (void)scratch;
    for (channel = 0; channel < layer->outputs; channel++) {
        uint8_t v = p[channel];
        for (i = channel + layer->outputs; i < layer->inputs; i += layer->outputs)
            v = p[i] > v ? p[i] : v;
        out[channel] = v;
    }
}

TBN_SHARED void tbn_max_f32(tbn_ctx *c, const TBN_ROM tbn_layer *layer, const void *x, void *y, void *scratch)
{
    const float *p = (const float *)x;
    float *out = (float *)y;
    uint32_t channel, i;
    (void)c, (void)scratch;
    for (channel = 0; channel < layer->outputs; channel++) {
        float v = p[channel];
        for (i = channel + layer->outputs; i < layer->inputs; i += layer->outputs)
            v = p[i] > v ? p[i] : v;
        out[channel] = v;
    }
}

TBN_SHARED void tbn_mean_u8(tbn_ctx *c, const TBN_ROM tbn_layer *layer, const void *x, void *y, void *scratch)
{
    const uint8_t *p = (const uint8_t *)x;
    uint32_t channel, i;
    (void)c, (void)scratch;
    for (channel = 0; channel < layer->outputs; channel++) {
        uint32_t s = 0;
        for (i = channel; i < layer->inputs; i += layer->outputs)
            s += p[i];
        ((uint8_t *)y)[channel] = tbn_clamp(TBN_HALF + (int64_t)s * (int64_t)layer->scales[0]);
    }
}

TBN_SHARED void tbn_mean_f32(tbn_ctx *c, const TBN_ROM tbn_layer *layer, const void *x, void *y, void *scratch)
{
    const float *p = (const float *)x;
    uint32_t channel, i;
    (void)c, (void)scratch;
    for (channel = 0; channel < layer->outputs; channel++) {
        float s = 0.0f;
        for (i = channel; i < layer->inputs; i += layer->outputs)
            s += p[i];
        ((float *)y)[channel] = s * tbn_float(layer->scales[0]);
    }
}

TBN_SHARED void tbn_affine_u8(tbn_ctx *c, const TBN_ROM tbn_layer *layer, const void *x, void *y, void *scratch)
{
    const uint8_t *p = (const uint8_t *)x;
    uint32_t channel;
    (void)c, (void)scratch;
    for (channel = 0; channel < layer->outputs; channel++)
        tbn_put(layer, y, channel, tbn_bias(layer, channel) + (int64_t)p[channel] * 256 * (int32_t)layer->scales[channel]);
}

TBN_SHARED void tbn_affine_f32(tbn_ctx *c, const TBN_ROM tbn_layer *layer, const void *x, void *y, void *scratch)
{
    const float *p = (const float *)x;
    uint32_t channel;
    (void)c, (void)scratch;
    for (channel = 0; channel < layer->outputs; channel++) {
        float v = tbn_float(layer->biases[channel]);
        v += p[channel] * tbn_float(layer->scales[channel]);
        ((float *)y)[channel] = layer->relu && !(v > 0.0f) ? 0.0f : v;
    }
}

/* `run` channels of zeros, the input's, and zeros again; bias_unit: the byte that stands for 0. */
TBN_SHARED void tbn_pad_u8(tbn_ctx *c, const TBN_ROM tbn_layer *layer, const void *x, void *y, void *scratch)
{
    (void)c, (void)scratch;
    TBN_SET(y, (int)layer->bias_unit, layer->outputs);
    TBN_COPY((uint8_t *)y + layer->run, x, layer->inputs);
}

TBN_SHARED void tbn_pad_f32(tbn_ctx *c, const TBN_ROM tbn_layer *layer, const void *x, void *y, void *scratch)
{
    (void)c, (void)scratch;
    TBN_SET(y, 0, 4u * layer->outputs);
    TBN_COPY((float *)y + layer->run, x, 4u * layer->inputs);
}

/* Any function of single values: byte u of the weights is its output for an input of u; four to a word. */
TBN_SHARED void tbn_lookup_u8(tbn_ctx *c, const TBN_ROM tbn_layer *layer, const void *x, void *y, void *scratch)
{
    const uint8_t *p = (const uint8_t *)x;
    uint8_t *out = (uint8_t *)y;
    uint32_t i;
    (void)c, (void)scratch;
    for (i = 0; i < layer->outputs; i++)
        out[i] = (uint8_t)(layer->weights[p[i] / 4u] >> 8 * (p[i] % 4u) & 255u);
}

/* ---- operations ---- */

TBN_SHARED void tbn_linear(tbn_ctx *c, const TBN_ROM tbn_op *op)
{
    op->row(c, op->layer, c->arena + op->in, c->arena + op->out, c->arena + op->scratch);
}

/* y = a * scales[0] + b * scales[1] + biases[0]; the second summand lies at `scratch`. */
TBN_SHARED void tbn_add_u8(tbn_ctx *c, const TBN_ROM tbn_op *op)
{
    const TBN_ROM tbn_layer *layer = op->layer;
    const uint8_t *a = c->arena + op->in, *b = c->arena + op->scratch;
    uint32_t i;
    for (i = 0; i < op->out_bytes; i++)
        c->arena[op->out + i] = tbn_clamp(tbn_bias(layer, 0) + (int64_t)a[i] * 256 * (int32_t)layer->scales[0]
                                          + (int64_t)b[i] * 256 * (int32_t)layer->scales[1]);
}

TBN_SHARED void tbn_add_f32(tbn_ctx *c, const TBN_ROM tbn_op *op)
{
    const float *a = (const float *)(const void *)(c->arena + op->in), *b = (const float *)(const void *)(c->arena + op->scratch);
    float *y = (float *)(void *)(c->arena + op->out);
    uint32_t i;
    for (i = 0; i < op->out_bytes / 4; i++) {
        const float v = a[i] + b[i];
        y[i] = op->layer->relu && !(v > 0.0f) ? 0.0f : v;
    }
}

/* `count` elements outside the map. */
static uint8_t *tbn_outside(const TBN_ROM tbn_window *w, uint8_t *p, uint32_t count)
{
    const uint32_t pad = w->pad;
    if (w->element == 1) {
        TBN_SET(p, (int)(pad & 255u), count);
        return p + count;
    }
    for (; count; count--, p += 4)
        TBN_COPY(p, &pad, 4);
    return p;
}

/* One row of the window, (kernel_w, channels); iy, ix: where it begins on the map, perhaps outside. */
static uint8_t *tbn_patch_row(const TBN_ROM tbn_window *w, const uint8_t *map, int32_t iy, int32_t ix, uint8_t *p)
{
    const uint32_t pixel = (uint32_t)w->channels * w->element;
    uint32_t x = 0;
    if (iy < 0 || iy >= w->in_h)
        return tbn_outside(w, p, (uint32_t)w->kernel_w * w->channels);
    map += (uint32_t)iy * w->in_w * pixel;
    while (x < w->kernel_w) {
        const int32_t at = ix + (int32_t)(x * w->dilation_w);
        if (at < 0 || at >= w->in_w) {
            p = tbn_outside(w, p, w->channels);
            x++;
        } else { /* as many pixels as lie beside one another */
            const uint32_t inside = (uint32_t)(w->in_w - at), rest = w->kernel_w - x;
            const uint32_t n = w->dilation_w > 1 ? 1 : inside < rest ? inside : rest;
            p = tbn_copy(p, map + (uint32_t)at * pixel, n * pixel);
            x += n;
        }
    }
    return p;
}

static void tbn_patch_channels_first(const TBN_ROM tbn_window *w, const uint8_t *map, int32_t iy, int32_t ix, uint8_t *p)
{
    uint32_t channel, i, j;
    for (channel = 0; channel < w->channels; channel++)
        for (i = 0; i < w->kernel_h; i++)
            for (j = 0; j < w->kernel_w; j++) {
                const int32_t y = iy + (int32_t)(i * w->dilation_h), x = ix + (int32_t)(j * w->dilation_w);
                if (y < 0 || y >= w->in_h || x < 0 || x >= w->in_w)
                    tbn_outside(w, p, 1);
                else
                    TBN_COPY(p, map + (((uint32_t)y * w->in_w + (uint32_t)x) * w->channels + channel) * w->element, w->element);
                p += w->element;
            }
}

TBN_SHARED void tbn_window_op(tbn_ctx *c, const TBN_ROM tbn_op *op)
{
    const TBN_ROM tbn_window *w = op->window;
    const uint8_t *const map = c->arena + op->in;
    uint8_t *const patch = c->arena + w->patch, *out = c->arena + op->out;
    /* a patch that lies on the map in one piece is read there */
    const uint8_t whole = (uint8_t)(w->pad_top == 0 && w->pad_left == 0 && w->dilation_h == 1 && w->dilation_w == 1
                                    && (w->kernel_h == 1 || w->kernel_w == w->in_w) && !w->channels_first
                                    && (uint32_t)(w->out_w - 1u) * w->stride_w + w->kernel_w <= w->in_w
                                    && (uint32_t)(w->out_h - 1u) * w->stride_h + w->kernel_h <= w->in_h);
    uint32_t oy, ox, i;
    for (oy = 0; oy < w->out_h; oy++)
        for (ox = 0; ox < w->out_w; ox++, out += w->out_bytes) {
            const int32_t iy = (int32_t)(oy * w->stride_h) - w->pad_top, ix = (int32_t)(ox * w->stride_w) - w->pad_left;
            const uint8_t *x = patch;
            if (whole) {
                x = map + ((uint32_t)iy * w->in_w + (uint32_t)ix) * w->channels * w->element;
            } else if (w->channels_first) {
                tbn_patch_channels_first(w, map, iy, ix, patch);
            } else {
                uint8_t *p = patch;
                for (i = 0; i < w->kernel_h; i++)
                    p = tbn_patch_row(w, map, iy + (int32_t)(i * w->dilation_h), ix, p);
            }
            op->row(c, op->layer, x, out, c->arena + op->scratch);
        }
}

/* ---- models ---- */

TBN_SHARED tbn_status tbn_init(tbn_ctx *c, const TBN_ROM tbn_model *model, void *arena, uint32_t bytes)
{
    if (c == 0)
        return TBN_E_ARG;
    c->arena = 0;
    c->model = 0;
    c->probing = 0;
    c->crc = 0;
    if (arena == 0)
        return TBN_E_ARG;
    if (bytes < model->arena_bytes)
        return TBN_E_ARENA;
#if !defined(__AVR__) /* which has no alignment */
    if (((uintptr_t)arena & 3u) != 0)
        return TBN_E_ALIGN;
#endif
    TBN_SET(arena, 0, model->arena_bytes);
    c->arena = (uint8_t *)arena;
    c->model = model;
    return TBN_OK;
}

TBN_SHARED tbn_status tbn_run(tbn_ctx *c, const TBN_ROM tbn_model *model)
{
    const TBN_ROM tbn_op *op = model->ops;
    uint16_t i;
    if (c == 0 || c->arena == 0 || c->model != model)
        return TBN_E_ARG;
    for (i = model->op_count; i; i--, op++)
        op->run(c, op);
    return TBN_OK;
}

/* Dense inputs, never 0: a bit flipped anywhere changes a sum. */
static uint32_t tbn_fill(uint8_t *p, uint32_t bytes, uint8_t f32, uint32_t state)
{
    uint32_t i;
    for (i = 0; i < bytes; i += f32 ? 4 : 1) {
        uint8_t v;
        state = state * 1664525u + 1013904223u;
        v = (uint8_t)(state >> 24 | 1u);
        if (f32) {
            const float x = (float)(v - 128) * 0.0078125f;
            TBN_COPY(p + i, &x, 4);
        } else {
            p[i] = v;
        }
    }
    return state;
}

/* expected: a checksum per operation, over what it sums up and puts out on four inputs of its own, then one over the outputs of the whole
 * network, which sees wrong places in the arena too. The arena is overwritten. */
TBN_SHARED tbn_status tbn_selftest(tbn_ctx *c, const TBN_ROM tbn_model *model, const TBN_ROM uint32_t *expected)
{
    uint32_t i, crc = 0xFFFFFFFFu, state = 1;
    uint8_t probe;
    if (c == 0 || c->arena == 0 || c->model != model)
        return TBN_E_ARG;
    for (i = 0; i < model->table_words; i++) {
        const uint32_t v = model->table[i];
        tbn_crc_byte(&crc, (uint8_t)v), tbn_crc_byte(&crc, (uint8_t)(v >> 8));
        tbn_crc_byte(&crc, (uint8_t)(v >> 16)), tbn_crc_byte(&crc, (uint8_t)(v >> 24));
    }
    if (~crc != model->crc32)
        return TBN_E_CRC;
    for (i = 0; i < model->op_count; i++) {
        const TBN_ROM tbn_op *op = model->ops + i;
        c->crc = 0xFFFFFFFFu;
        c->probing = 1;
        for (probe = 0; probe < 4; probe++) {
            state = tbn_fill(c->arena + op->in, op->in_bytes, model->f32, state);
            if (op->row == 0) /* a sum of two maps */
                state = tbn_fill(c->arena + op->scratch, op->in_bytes, model->f32, state);
            op->run(c, op);
            tbn_probe(c, c->arena + op->out, op->out_bytes);
        }
        c->probing = 0;
        if (~c->crc != expected[i])
            return TBN_E_SELFTEST;
    }
    TBN_SET(c->arena, 0, model->arena_bytes);
    tbn_fill(c->arena + model->ops->in, model->ops->in_bytes, model->f32, state);
    tbn_run(c, model);
    c->crc = 0xFFFFFFFFu;
    c->probing = 1;
    tbn_probe(c, c->arena + model->out, model->out_bytes);
    c->probing = 0;
    return ~c->crc == expected[model->op_count] ? TBN_OK : TBN_E_SELFTEST;
}

TBN_SHARED uint32_t tbn_argmax_i32(const int32_t *v, uint32_t n)
{
    uint32_t i, best = 0;
    for (i = 1; i < n; i++)
        if (v[i] > v[best])
            best = i;
    return best;
}

TBN_SHARED uint32_t tbn_argmax_f32(const float *v, uint32_t n)
{
    uint32_t i, best = 0;
    for (i = 1; i < n; i++)
        if (v[i] > v[best])
            best = i;
    return best;
}

#if defined(__GNUC__) && !defined(__clang__) && !defined(__AVR__)
#pragma GCC pop_options
#endif
