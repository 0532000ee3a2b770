// AVX-512 F, BW, DQ, VL. Signs are looked up, not multiplied: the 16 signed sums of 4 activations form a table in one register,
// and vpermps adds one entry of it to each of 16 rows: 64 multiply-adds by a permute and an add.
// The idea of indexing activation sums by weight bits is T-MAC's (arXiv 2407.00088); exact float32 tables and the tile are ours.
#include <immintrin.h>
#define LANES 16
#define BLOCK 12
#include "fma.inc"

namespace {

const long STRIP_BYTES = 384 << 10;  // tables kept at once: they should stay in a 1 MB second-level cache beside the weights
const long K_CHUNKS = 16;            // chunks of 32 columns per pass over a 1 x 1 layer, for the same reason

int available512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl");
}

// Signs as [R/16][tap][C/32][16] words: bit s of a row's word is column 32 * chunk + s of that tap. Columns beyond C meet zeros.
int prepare_lookup(Weights* w, const uint8_t* bits, const float* dense) {
  if (w->kind == KIND_FLOAT) return prepare(w, bits, dense);
  long blocks = (w->R + 15) / 16, taps = (long)w->kh * w->kw, chunks = (w->C + 31) / 32;
  w->rows = 0;
  w->bytes = blocks * taps * chunks * 64;
  if (posix_memalign(&w->data, 64, w->bytes)) return 1;
  uint32_t* to = (uint32_t*)w->data;
  memset(to, 0, w->bytes);
  for (long r = 0; r < w->R; r++)
    for (long c = 0; c < w->C; c++)
      for (long t = 0; t < taps; t++)
        if (sign_bit(bits, (r * w->C + c) * taps + t))
          to[((((r / 16) * taps + t) * chunks + c / 32) * 16) + r % 16] |= 1u << (c % 32);
  return 0;
}

// Tables of `n` activations, 4 to a table: entry e has +x[b] where bit b of e is set, -x[b] where it is clear.
void tables(const float* x, long n, float* to) {
  // v holds, of 8 activations, the sums and differences of neighbours (lanes 0 to 7) and their negatives (8 to 15).
  const __m512 sign = _mm512_castsi512_ps(_mm512_setr_epi32(0, (int)0x80000000, 0, (int)0x80000000, 0, (int)0x80000000, 0, (int)0x80000000,
      (int)0x80000000, 0, (int)0x80000000, 0, (int)0x80000000, 0, (int)0x80000000, 0));
  const __m512 upper = _mm512_castsi512_ps(_mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, (int)0x80000000, (int)0x80000000, (int)0x80000000,
      (int)0x80000000, (int)0x80000000, (int)0x80000000, (int)0x80000000, (int)0x80000000));
  // pair (x0, x1): lane 0 is x1 + x0, lane 1 is x0 - x1, lanes 8 and 9 their negatives; bits 00 -> 8, 01 -> 1, 10 -> 9, 11 -> 0
  const __m512i low = _mm512_setr_epi32(8, 1, 9, 0, 8, 1, 9, 0, 8, 1, 9, 0, 8, 1, 9, 0);
  const __m512i high = _mm512_setr_epi32(10, 10, 10, 10, 3, 3, 3, 3, 11, 11, 11, 11, 2, 2, 2, 2);
  const __m512i four = _mm512_set1_epi32(4), low4 = _mm512_add_epi32(low, four), high4 = _mm512_add_epi32(high, four);
  for (long k = 0; k < n; k += 8) {
    long left = n - k;
    __m256 eight = left >= 8 ? _mm256_loadu_ps(x + k) : _mm256_maskz_loadu_ps((__mmask8)((1u << left) - 1), x + k);
    __m512 both = _mm512_broadcast_f32x8(eight), swapped = _mm512_permute_ps(both, 0xb1);
    __m512 v = _mm512_add_ps(_mm512_xor_ps(both, sign), _mm512_xor_ps(swapped, upper));
    _mm512_store_ps(to + 4 * k, _mm512_add_ps(_mm512_permutexvar_ps(low, v), _mm512_permutexvar_ps(high, v)));
    if (left > 4) _mm512_store_ps(to + 4 * k + 16, _mm512_add_ps(_mm512_permutexvar_ps(low4, v), _mm512_permutexvar_ps(high4, v)));
  }
}

struct Lookup {
  const uint32_t* words;  // of the first row block
  long block, chunks;     // words from one row block to the next, chunks per tap
  long groups;            // tables per tap
  long from, to;          // chunks to do now
  const long* offsets;    // of each tap, in floats
  long taps, kw, width;   // width: floats from one position to the next
};

// Adds and multiply-adds run in different pipes of some cores, so half of the sums are taken as fma(x, 1, sum).
template <int PIPE>
inline __m512 add(__m512 sum, __m512 x, __m512 one) {
  return PIPE ? _mm512_fmadd_ps(x, one, sum) : _mm512_add_ps(sum, x);
}

template <int NR, int N>
inline void start(__m512 (&acc)[NR][N], const float* sums, int first) {
  for (int r = 0; r < NR; r++)
    for (int b = 0; b < N; b++) acc[r][b] = first ? _mm512_setzero_ps() : _mm512_load_ps(sums + (r * N + b) * 16);
}

template <int NR, int N>
inline void finish(const __m512 (&acc)[NR][N], float* sums) {
  for (int r = 0; r < NR; r++)
    for (int b = 0; b < N; b++) _mm512_store_ps(sums + (r * N + b) * 16, acc[r][b]);
}

// N positions, `step` floats apart, against NR row blocks.
template <int NR, int N>
void points(const Lookup& j, const float* at, long step, float* sums, int first) {
  __m512 acc[NR][N], one = _mm512_set1_ps(1.f);
  start<NR, N>(acc, sums, first);
  for (long t = 0; t < j.taps; t++) {
    const float* base = at + j.offsets[t];
    const uint32_t* words = j.words + t * j.chunks * 16;
    for (long q = j.from; q < j.to; q++) {
      __m512i word[NR];
      for (int r = 0; r < NR; r++) word[r] = _mm512_load_si512(words + r * j.block + q * 16);
      long last = j.groups - q * 8 < 8 ? j.groups - q * 8 : 8;
      const float* from = base + q * 128;
      for (long s = 0; s < last; s++, from += 16) {
#pragma GCC unroll 8
        for (int b = 0; b < N; b++) {
          __m512 table = _mm512_load_ps(from + b * step);
#pragma GCC unroll 8
          for (int r = 0; r < NR; r++) {
            __m512 x = _mm512_permutexvar_ps(word[r], table);
            acc[r][b] = (r + b) % 2 ? add<1>(acc[r][b], x, one) : add<0>(acc[r][b], x, one);
          }
        }
#pragma GCC unroll 8
        for (int r = 0; r < NR; r++) word[r] = _mm512_srli_epi32(word[r], 4);
      }
    }
  }
  finish<NR, N>(acc, sums);
}

// The same for kernels three wide over neighbouring positions: a table is loaded once for its three taps.
template <int NR, int N>
void slide(const Lookup& j, const float* at, long step, float* sums, int first) {
  __m512 acc[NR][N], one = _mm512_set1_ps(1.f);
  start<NR, N>(acc, sums, first);
  for (long t = 0; t < j.taps; t += 3) {
    const float* base = at + j.offsets[t];
    const uint32_t* words = j.words + t * j.chunks * 16;
    for (long q = j.from; q < j.to; q++) {
      __m512i word[NR][3];
      for (int r = 0; r < NR; r++)
        for (int x = 0; x < 3; x++) word[r][x] = _mm512_load_si512(words + r * j.block + (x * j.chunks + q) * 16);
      long last = j.groups - q * 8 < 8 ? j.groups - q * 8 : 8;
      const float* from = base + q * 128;
      for (long s = 0; s < last; s++, from += 16) {
#pragma GCC unroll 16
        for (int p = 0; p < N + 2; p++) {
          __m512 table = _mm512_load_ps(from + p * step);
#pragma GCC unroll 4
          for (int x = 0; x < 3; x++) {
            int b = p - x;
            if (b < 0 || b >= N) continue;
#pragma GCC unroll 8
            for (int r = 0; r < NR; r++) {
              __m512 y = _mm512_permutexvar_ps(word[r][x], table);
              acc[r][b] = (r + p) % 2 ? add<1>(acc[r][b], y, one) : add<0>(acc[r][b], y, one);
            }
          }
        }
#pragma GCC unroll 8
        for (int r = 0; r < NR; r++)
#pragma GCC unroll 4
          for (int x = 0; x < 3; x++) word[r][x] = _mm512_srli_epi32(word[r][x], 4);
      }
    }
  }
  finish<NR, N>(acc, sums);
}

typedef void (*Kernel)(const Lookup&, const float*, long, float*, int);
// [slide][log2 N][log2 NR]; the accumulators must fit 32 registers beside the words
const Kernel kKernels[2][4][3] = {
    {{points<1, 1>, points<2, 1>, points<4, 1>}, {points<1, 2>, points<2, 2>, points<4, 2>},
     {points<1, 4>, points<2, 4>, points<4, 4>}, {points<1, 8>, points<2, 8>, points<2, 8>}},
    {{slide<1, 1>, slide<2, 1>, slide<4, 1>}, {slide<1, 2>, slide<2, 2>, slide<4, 2>},
     {slide<1, 4>, slide<2, 4>, slide<4, 4>}, {slide<1, 8>, slide<2, 8>, slide<2, 8>}}};

// All row blocks for 2^ln positions beginning at table `at`, which are output pixels pixel, pixel + 1, ...
void segment(const Conv* c, Lookup j, const float* at, int ln, long pixel, int slides) {
  long blocks = (c->weights->R + 15) / 16, pass = j.taps == 1 ? K_CHUNKS : j.chunks;
  const uint32_t* words = j.words;
  int widest = ln == 3 ? 1 : 2, n = 1 << ln;
  float* sums = (float*)c->scratch->get(c->scratch, 2, (blocks + 4) * n * 64);
  for (j.from = 0; j.from < j.chunks; j.from += pass) {
    j.to = j.from + pass < j.chunks ? j.from + pass : j.chunks;
    for (long row = 0; row < blocks;) {
      int lr = widest;
      while (row + (1 << lr) > blocks) lr--;
      j.words = words + row * j.block;
      kKernels[slides][ln][lr](j, at, j.width, sums + row * n * 16, j.from == 0);
      row += 1 << lr;
    }
  }
  // sums are [row block group][row block][position][16]: the order does not depend on how row blocks were grouped
  for (long row = 0; row < blocks; row++)
    for (int b = 0; b < n; b++) {
      v16 y;
      memcpy(&y, sums + (row * n + b) * 16, 64);
      long left = c->weights->R - row * 16;
      epilogue(c, y, pixel + b, (int)row * 16, left < 16 ? (int)left : 16);
    }
}

struct Strip {
  long first, count, reach, width;  // positions: the first, how many outputs, how many more their taps reach
};

// Tables of positions [from, to) of one phase, relative to the strip's first, into `to_tables`.
void fill(const Conv* c, const Flat& f, const Strip& s, int phase, long from, long to, float* out) {
  long at = s.first + from, row = at / f.pitch, X = at % f.pitch, g = row / f.image_rows, Y = row % f.image_rows;
  int py = phase / f.phases_x, px = phase % f.phases_x;
  for (long i = from; i < to; i++) {
    long y = Y * c->sh + py - c->ph, x = X * c->sw + px - c->pw;
    float* table = out + i * s.width;
    if (g < c->G && y >= 0 && y < c->H && x >= 0 && x < c->W)
      tables(c->in + ((g * c->H + y) * c->W + x) * c->in_stride, c->weights->C, table);
    else
      memset(table, 0, s.width * 4);
    if (++X == f.pitch) {
      X = 0;
      if (++Y == f.image_rows) Y = 0, g++;
    }
  }
}

void lookup(const Conv* c) {
  const Weights* w = c->weights;
  Flat f = flat_of(c);
  Lookup j;
  j.taps = (long)w->kh * w->kw, j.kw = w->kw, j.chunks = (w->C + 31) / 32, j.groups = (w->C + 3) / 4, j.width = j.groups * 16;
  j.words = (const uint32_t*)w->data, j.block = j.taps * j.chunks * 16;
  int phases = f.phases_x * f.phases_y;
  long rows = (long)(c->G - 1) * f.image_rows + c->Ho;
  Strip s;
  s.width = j.width;
  s.reach = (long)((w->kh - 1) * c->dh / c->sh) * f.pitch + (w->kw - 1) * c->dw / c->sw;
  long fit = (STRIP_BYTES / (j.width * 4) / phases - s.reach) / f.pitch, k = fit < 1 ? 1 : fit > rows ? rows : fit;
  long size = k * f.pitch + s.reach + 1;
  float* base = (float*)c->scratch->get(c->scratch, 0, phases * size * j.width * 4);
  long* offsets = (long*)c->scratch->get(c->scratch, 1, (j.taps + phases) * sizeof(long));
  long* used = offsets + j.taps;
  for (int i = 0; i < phases; i++) used[i] = 0;
  for (int ky = 0; ky < w->kh; ky++)
    for (int kx = 0; kx < w->kw; kx++) {
      int y = ky * c->dh, x = kx * c->dw, phase = (y % c->sh) * f.phases_x + x % c->sw;
      used[phase] = 1;
      offsets[ky * w->kw + kx] = (phase * size + (long)(y / c->sh) * f.pitch + x / c->sw) * j.width;
    }
  j.offsets = offsets;
  int slides = w->kw == 3 && c->sw == 1 && c->dw == 1;
  for (long row = 0; row < rows; row += k) {
    s.first = row * f.pitch;
    for (int phase = 0; phase < phases; phase++) {
      if (!used[phase]) continue;
      float* own = base + phase * size * j.width;
      long kept = row ? size - k * f.pitch : 0;
      if (kept) memmove(own, own + k * f.pitch * j.width, kept * j.width * 4);
      fill(c, f, s, phase, kept, size, own);
    }
    for (long r = row; r < row + k && r < rows; r++) {
      long g = r / f.image_rows, y = r % f.image_rows;
      if (y >= c->Ho) continue;
      for (int x = 0; x < c->Wo;) {
        int ln = c->Wo - x >= 8 ? 3 : c->Wo - x >= 4 ? 2 : c->Wo - x >= 2 ? 1 : 0;
        segment(c, j, base + ((r - row) * f.pitch + x) * j.width, ln, (g * c->Ho + y) * c->Wo + x, slides);
        x += 1 << ln;
      }
    }
  }
}

void conv_lookup(const Conv* c) {
  const Weights* w = c->weights;
  if (w->kind == KIND_FLOAT) return conv(c);
  if (w->kh * w->kw > 1 || c->sh > 1 || c->sw > 1 || c->ph || c->pw) return lookup(c);
  long pixels = (long)c->G * c->H * c->W, whole = pixels & ~7L;  // a list of pixels: rows of 8, and what is left
  Conv rows = *c;
  rows.G = 1;
  if (whole) rows.H = rows.Ho = (int)(whole / 8), rows.W = rows.Wo = 8, lookup(&rows);
  rows.H = rows.Ho = 1, rows.W = rows.Wo = (int)(pixels - whole);
  rows.in += whole * c->in_stride, rows.out += whole * c->out_stride;
  if (rows.residual) rows.residual += whole * c->out_stride;
  if (pixels > whole) lookup(&rows);
}

}  // namespace

extern "C" {
extern const Level tbn_level_avx512 = {"avx512", available512, prepare_lookup, conv_lookup};
}
