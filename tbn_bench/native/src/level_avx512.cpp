// AVX-512 F, BW, DQ, VL. Signs are looked up, not multiplied: the 16 signed sums of 4 activations form a table in one register,
// and vpermps adds one entry of it to each of 16 rows: 64 multiply-adds by a permute and an add.
// The idea of indexing activation sums by weight bits is T-MAC's (arXiv 2407.00088); exact float32 tables and the tile are ours.
#include <immintrin.h>
#define LANES 16
#define SUMS 24
#define PIXELS 8
#include "dense.inc"
#include "transformer.inc"
#include "norm.inc"
#include "wgrad.inc"
#include "groups.inc"
#define A14 0
#include "lookup512.inc"

namespace {

int available512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl");
}

// Signs as [R/16][tap][C/32][16] words: bit s of a row's word is column 32 * chunk + s of that tap. Columns beyond C meet zeros.
// The words of a tile of few rows are repeated, so that they fill 16 lanes.
int prepare_lookup(Weights* w, const uint8_t* bits, const float* dense) {
  if (w->kind != KIND_SIGNS) return prepare(w, dense);
  long blocks = (w->R + 15) / 16, taps = (long)w->kh * w->kw, chunks = (w->C + 31) / 32;
  w->bytes = blocks * taps * chunks * 64;
  if (posix_memalign(&w->data, 64, w->bytes + 64)) return 1;  // level amx reads chunks in pairs
  uint32_t* to = (uint32_t*)w->data;
  memset(to, 0, w->bytes + 64);
  w->copies = w->R < 16 && 16 % w->R == 0 ? 16 / w->R : 1;
  long rows = (long)w->R * w->copies;
  for (long r = 0; r < rows; r++)
    for (long c = 0; c < w->C; c++)
      for (long t = 0; t < taps; t++)
        if (sign_bit(bits, (r % w->R * w->C + c) * taps + t))
          to[((((r / 16) * taps + t) * chunks + c / 32) * 16) + r % 16] |= 1u << (c % 32);
  return 0;
}

void conv512(const Conv* c) {
  if (c->weights->kind != KIND_SIGNS) return dense::conv(c);
  SixteenRows whole(c);
  if (c->planes == PLANES_A14) return tbn_conv_a14(&whole.conv);
  conv_lookup(&whole.conv);
}

long peak512(int kind, long n) {
  if (kind != PEAK_LOOKUP) return peak(kind, n);
  __m512 acc[16], table = _mm512_set1_ps(1e-9f), one = _mm512_set1_ps(1.f);
  __m512i word = _mm512_set1_epi32(0x01234567);
  for (int i = 0; i < 16; i++) acc[i] = one;
  for (long k = 0; k < n; k++) {
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) {
      __asm__("" : "+v"(table));  // so that each lookup is made
      acc[i] = i % 2 ? add<1>(acc[i], word, table, one) : add<0>(acc[i], word, table, one);
    }
    word = _mm512_srli_epi32(word, 1);
  }
  volatile float sink = 0;
  for (int i = 0; i < 16; i++) sink = sink + acc[i][0];
  return n * 16 * 64;
}

int takes512(int planes) { return planes == PLANES_A14 ? available512() && tbn_a14_available() : planes == 3; }

}  // namespace

extern "C" {
extern const NormKernels tbn_norm_avx512 = norm_kernels;
void tbn_weight_gradient_avx512(const WeightGradient* w) { weight_gradient(w); }
void tbn_group_conv_avx512(const GroupConv* c) { group_conv(c); }
void tbn_group_gradient_avx512(const GroupGradient* c) { group_gradient(c); }
extern const Level tbn_level_avx512 = {"avx512", available512, takes512, prepare_lookup, conv512, gelu, attention, peak512, &norm_kernels, weight_gradient,
                                       group_conv, group_gradient};
}
