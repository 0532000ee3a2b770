// AVX2 and FMA.
#include <immintrin.h>
#define LANES 8
#define SUMS 12
#define PIXELS 6
#define ROWS 4
#define VECTORS 3
#include "dense.inc"
#include "lut.inc"
#include "transformer.inc"
#include "norm.inc"
#include "wgrad.inc"

namespace {

const long FEW_PIXELS = 4;  // fewer than these do not fill the lanes of lut.inc: rows take the lanes instead

int available() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

// One pixel: half tables of 8 signed sums with +x[3], from which 8 rows pick by 3 bits and take the sign of the fourth.
void half_tables(const float* x, long n, float* to) {
  for (long k = 0; k < n; k += 4) {
    float v[4] = {};
    for (long i = k; i < n && i < k + 4; i++) v[i - k] = x[i];
    float low[4] = {-v[0] - v[1], v[0] - v[1], v[1] - v[0], v[0] + v[1]};
    for (int e = 0; e < 8; e++) to[2 * k + e] = low[e & 3] + ((e & 4 ? v[2] : -v[2]) + v[3]);
  }
}

void conv_pixel(const Conv* c, const float* x, long pixel) {
  const Weights* w = c->weights;
  long chunks = (w->C + 31) / 32, groups = (w->C + 3) / 4;
  float* tables = (float*)c->scratch->get(c->scratch, SLOT_INPUT, groups * 32 + 64);
  half_tables(x, w->C, tables);
  const __m256i top = _mm256_set1_epi32((int)0x80000000);
  for (long row = 0; row < w->R; row += 16) {
    float sums[16] = {};
    for (int half = 0; half < 2 && row + 8 * half < w->R; half++) {
      const uint32_t* words = (const uint32_t*)w->data + (row / 8 + half) * chunks * 8;
      __m256 acc[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
      for (long q = 0; q < chunks; q++) {
        __m256i word = _mm256_loadu_si256((const __m256i*)(words + 8 * q));
        long last = groups - q * 8 < 8 ? groups - q * 8 : 8;
        for (long s = 0; s < last; s++) {
          __m256 picked = _mm256_permutevar8x32_ps(_mm256_load_ps(tables + (q * 8 + s) * 8), word);
          __m256i sign = _mm256_andnot_si256(_mm256_slli_epi32(word, 28), top);  // set where the fourth bit is clear
          acc[s & 1] = _mm256_add_ps(acc[s & 1], _mm256_xor_ps(picked, _mm256_castsi256_ps(sign)));
          word = _mm256_srli_epi32(word, 4);
        }
      }
      _mm256_storeu_ps(sums + 8 * half, _mm256_add_ps(acc[0], acc[1]));
    }
    v16 y;
    memcpy(&y, sums, 64);
    int32_t one = (int32_t)pixel;
    epilogue(c, &y, &one, 1, (int)row, w->R - row < 16 ? (int)(w->R - row) : 16);
  }
}

void conv_avx2(const Conv* c) {
  const Weights* w = c->weights;
  long pixels = (long)c->G * c->H * c->W;
  if (w->kind != KIND_SIGNS || !on_their_own(c) || pixels >= FEW_PIXELS) return conv_lut(c);
  for (long i = 0; i < pixels; i++) conv_pixel(c, c->in + i * c->in_stride, i);
}

}  // namespace

extern "C" {
extern const Level tbn_level_avx2 = {"avx2", available, takes_float32, prepare_lut, conv_avx2, gelu, attention, peak, &norm_kernels, weight_gradient, nullptr, nullptr};
}
