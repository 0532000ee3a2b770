/* Random layers through tbn_rt.c against sums written out one by one: any shape, tile, scale and layout.
 * Built as the test program of a folder: on this machine with sanitizers, on simulated cores as it is. Prints "fuzz CASES FAILURES". */
#include "../src/tbn_rt.h"
#include "port.h"

#ifndef FUZZ_CASES
#define FUZZ_CASES 400
#endif
#ifndef FUZZ_SEED
#define FUZZ_SEED 1
#endif
#ifndef FUZZ_INPUTS
#define FUZZ_INPUTS 70
#endif
#ifndef FUZZ_OUTPUTS
#define FUZZ_OUTPUTS 14
#endif
#define WEIGHTS (FUZZ_INPUTS * FUZZ_OUTPUTS)
#define SLACK 32

static uint32_t state;
static int8_t tile[WEIGHTS];
static uint32_t table[WEIGHTS];
static int32_t scratch[WEIGHTS];
static uint32_t scales[2 * WEIGHTS + FUZZ_OUTPUTS], biases[FUZZ_OUTPUTS];
static union { uint8_t u[FUZZ_INPUTS + SLACK]; float f[FUZZ_INPUTS + SLACK]; uint32_t align; } x;
static union { uint8_t u[FUZZ_OUTPUTS]; int32_t i[FUZZ_OUTPUTS]; float f[FUZZ_OUTPUTS]; } y;

static uint32_t next(uint32_t below)
{
    state = state * 1664525u + 1013904223u;
    return (state >> 8) % below;
}

static uint32_t gcd(uint32_t a, uint32_t b)
{
    while (b) {
        const uint32_t r = a % b;
        a = b, b = r;
    }
    return a;
}

/* The layouts as layout.py words them, one bit at a time. */
static void pack(uint32_t q, uint32_t g, int lane4)
{
    const uint32_t each = (g + 31) / 32, segments = q / g, blocks = lane4 ? segments / 4 : 0;
    uint32_t i;
    for (i = 0; i < segments * each; i++)
        table[i] = 0;
    for (i = 0; i < q; i++) {
        const uint32_t s = i / g, at = i % g, word = at / 32, in = at % 32;
        const uint32_t where = s / 4 < blocks ? (s / 4 * each + word) * 4 + s % 4 : s * each + word;
        const uint32_t bit = lane4 ? 8 * (in % 4) + 7 - in / 4 : in;
        if (tile[i] > 0)
            table[where] |= 1u << bit;
    }
}

static float float_of(uint32_t bits)
{
    union { uint32_t u; float f; } v;
    v.u = bits;
    return v.f;
}

static uint32_t bits_of(float f)
{
    union { uint32_t u; float f; } v;
    v.f = f;
    return v.u;
}

static double size_of(double v)
{
    return v < 0 ? -v : v;
}

/* One layer: 1 where its outputs are wrong. */
static int wrong(void)
{
    const uint32_t n = 1 + next(FUZZ_INPUTS), m = 1 + next(FUZZ_OUTPUTS), kind = next(3); /* nat, lane4, float */
    uint32_t p = 1 + next(9), q, g, alphas, per_row, per_alpha, i, r, count = 0;
    tbn_layer layer = {table, scales, biases, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0};
    tbn_ctx c = {0, 0, 0, 0};
    int bad = 0;
    while (n * m % p)
        p--;
    q = n * m / p, g = gcd(n, q);
    alphas = next(2) ? p : 1;
    per_row = next(2) || (g == n && alphas > 1 && m / alphas % (q / g));
    per_alpha = n * m / alphas;
    for (i = 0; i < q; i++)
        tile[i] = next(2) ? 1 : -1;
    for (i = 0; i < FUZZ_INPUTS + SLACK; i++) {
        if (kind == 2)
            x.f[i] = (float)((int32_t)next(20001) - 10000) * 0.001f;
        else
            x.u[i] = (uint8_t)(i < n ? next(256) : 255); /* what lies behind must not count */
    }
    layer.inputs = (uint16_t)n, layer.outputs = (uint16_t)m, layer.segment = (uint16_t)g;
    layer.per_input = (uint16_t)(n / g), layer.per_tile = (uint16_t)(q / g), layer.run = per_alpha / g, layer.per_row = (uint8_t)per_row;
    layer.wide = (uint8_t)next(2), layer.bias_unit = 1 << 16, layer.relu = (uint8_t)next(2);
    for (r = 0; r < m; r++) /* a scale begins with each alpha, and with each row where there is one per row */
        for (i = 0; i < n; i++)
            if ((r * n + i) % per_alpha == 0 || (per_row && i == 0))
                scales[count++] = kind == 2 ? bits_of((float)(1 + next(1000)) * 0.01f) : (uint32_t)((int32_t)next(1u << 24) - (1 << 23)) * 64u;
    for (r = 0; r < m; r++)
        biases[r] = kind == 2 ? bits_of((float)next(1000) * 0.1f - 50.0f) : (uint32_t)((int32_t)next(1u << 24) - (1 << 23));
    pack(q, g, kind == 1);
    if (kind == 0)
        tbn_tiled_u8_nat(&c, &layer, x.u, &y, scratch);
    else if (kind == 1)
        tbn_tiled_u8_lane4(&c, &layer, x.u, &y, scratch);
    else
        tbn_tiled_f32_nat(&c, &layer, x.f, &y, scratch);
    for (count = 0, r = 0; r < m; r++) {
        int64_t sum = ((int64_t)1 << 31) + (int64_t)(int32_t)biases[r] * 65536;
        double real = float_of(biases[r]), size = size_of(real);
        for (i = 0; i < n; i++) {
            const int32_t w = tile[(r * n + i) % q];
            if ((r * n + i) % per_alpha == 0 || (per_row && i == 0))
                count++;
            if (kind < 2) {
                sum += (int64_t)(int32_t)scales[count - 1] * w * x.u[i];
            } else {
                const double term = (double)float_of(scales[count - 1]) * w * (double)x.f[i];
                real += term, size += size_of(term);
            }
        }
        if (kind < 2) {
            const int32_t v = (int32_t)(sum >> 32);
            bad |= layer.wide ? y.i[r] != v : y.u[r] != (v < 0 ? 0 : v > 255 ? 255 : v);
        } else {
            const double want = layer.relu && real < 0 ? 0 : real;
            bad |= !(size_of((double)y.f[r] - want) <= 8.0 / 16777216.0 * size);
        }
    }
    return bad;
}

static void print(uint32_t v)
{
    char digits[10];
    int8_t n = 0;
    do {
        digits[n++] = (char)('0' + v % 10);
        v /= 10;
    } while (v);
    while (n)
        port_put(digits[--n]);
}

int main(int argc, char **argv)
{
    uint32_t cases, failures = 0;
    const char *p;
    port_open(argc, argv);
    state = FUZZ_SEED;
    for (cases = 0; cases < FUZZ_CASES; cases++)
        failures += (uint32_t)wrong();
    for (p = "fuzz "; *p; p++)
        port_put(*p);
    print(cases);
    port_put(' ');
    print(failures);
    port_put('\n');
    port_exit(failures != 0);
    return 0;
}
