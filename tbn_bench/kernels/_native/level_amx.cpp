// AMX (bfloat16) on Intel, exact for float32: an activation is the sum of three bfloat16 numbers (8 + 8 + 8 bits of its 24-bit
// significand, by truncation), a sign is +-1 in bfloat16, so every product is exact and sums are float32. Three passes of the matrix
// unit, about 16 times as fast as fused multiply-adds, still beat them five times over. Fewer planes are faster and less exact.
#include <immintrin.h>
#include <stdlib.h>
#include <string.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#include "tbn.h"

extern "C" const Level tbn_level_avx512;

namespace {

const long FEW_PIXELS = 6;

int ask() {
#if defined(TBN_EMULATED_AMX)  // tests/amx_emulator.h
  return tbn_level_avx512.available();
#elif defined(__linux__)
  unsigned a, b, c, d;
  __asm__("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(7), "c"(0));
  int bf16 = (d >> 22) & 1, tile = (d >> 24) & 1;
  if (!bf16 || !tile || !tbn_level_avx512.available()) return 0;
  return syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* tile data */) == 0;
#else
  return 0;
#endif
}

int available() {
  static int known = -1;
  if (known < 0) known = ask();
  return known;
}

struct alignas(64) Config {
  uint8_t palette, start, reserved[14];
  uint16_t bytes[16];
  uint8_t rows[16];
};

void configure() {
  Config c;
  memset(&c, 0, sizeof c);
  c.palette = 1;
  for (int i = 0; i < 8; i++) c.bytes[i] = 64, c.rows[i] = 16;
  _tile_loadconfig(&c);
}

long round_up(long n, long to) { return (n + to - 1) / to * to; }

// K in chunks of 32: per tap where C is a multiple of 32, else over the whole of kh * kw * C ("columns" form only).
int per_tap(const Weights* w) { return w->C % 32 == 0; }
long chunks_of(const Weights* w) { return (w->K + 31) / 32; }

int prepare(Weights* w, const uint8_t* bits, const float* dense) {
  if (w->kind == KIND_FLOAT) return tbn_level_avx512.prepare(w, bits, dense);
  long blocks = (w->R + 15) / 16, taps = (long)w->kh * w->kw, chunks = chunks_of(w);
  w->rows = 0;
  long looked_up = 0;
  if (taps == 1) {  // few pixels are looked up: the matrix unit needs 16 of them to be worth its while
    if (tbn_level_avx512.prepare(w, bits, dense)) return 1;
    w->rows = (uint32_t*)w->data, looked_up = w->bytes;
  }
  w->bytes = looked_up + blocks * chunks * 64;
  if (posix_memalign(&w->data, 64, blocks * chunks * 64)) return 1;
  uint32_t* to = (uint32_t*)w->data;  // [R/16][K/32][16 pairs of k]: bit 2 * j + h is the sign of row j at k = 2 * pair + h
  memset(to, 0, blocks * chunks * 64);
  for (long r = 0; r < w->R; r++)
    for (long t = 0; t < taps; t++)
      for (long c = 0; c < w->C; c++)
        if (sign_bit(bits, (r * w->C + c) * taps + t)) {
          long k = t * w->C + c;
          to[((r / 16) * chunks + k / 32) * 16 + (k % 32) / 2] |= 1u << (2 * (r % 16) + k % 2);
        }
  return 0;
}

// words: [chunks][16] of each of `tiles` row blocks, `block` words apart -> panel [chunks][tiles][512] of +-1 in bfloat16.
void decode(const uint32_t* words, long block, long chunks, int tiles, uint16_t* panel) {
  __m512i plus = _mm512_set1_epi16(0x3f80), minus = _mm512_set1_epi16((short)0xbf80);
  for (long q = 0; q < chunks; q++)
    for (int n = 0; n < tiles; n++) {
      const uint32_t* from = words + n * block + q * 16;
      uint16_t* to = panel + (q * tiles + n) * 512;
      for (int i = 0; i < 16; i++) _mm512_store_si512(to + 32 * i, _mm512_mask_blend_epi16((__mmask32)from[i], minus, plus));
    }
}

// x: (n) float32 -> planes of n bfloat16 each, zero up to `padded` (a multiple of 32).
inline void split(const float* x, long n, long padded, uint16_t* const* planes, int count) {
  const __m512i high = _mm512_set1_epi32((int)0xffff0000u);
  static const uint16_t odd[32] = {1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31,
                                   33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
  const __m512i pick = _mm512_loadu_si512(odd);  // the upper half of each of 32 float32
  for (long k = 0; k < padded; k += 32) {
    long left = n - k;
    __m512 a, b;
    if (left >= 32) {
      a = _mm512_loadu_ps(x + k), b = _mm512_loadu_ps(x + k + 16);
    } else {
      __mmask16 ma = left >= 16 ? 0xffff : left > 0 ? (1u << left) - 1 : 0, mb = left > 16 ? (1u << (left - 16)) - 1 : 0;
      a = _mm512_maskz_loadu_ps(ma, x + k), b = _mm512_maskz_loadu_ps(mb, x + k + 16);
    }
    for (int q = 0; q < count; q++) {
      __m512i ia = _mm512_castps_si512(a), ib = _mm512_castps_si512(b);
      _mm512_storeu_si512(planes[q] + k, _mm512_permutex2var_epi16(ia, pick, ib));
      a = _mm512_sub_ps(a, _mm512_castsi512_ps(_mm512_and_si512(ia, high)));
      b = _mm512_sub_ps(b, _mm512_castsi512_ps(_mm512_and_si512(ib, high)));
    }
  }
}

// One block of MT x NT tiles: acc[m][n] (16 pixels x 16 rows) = sum over chunks and planes of A[m] B[n].
struct Block {
  const uint16_t* planes[3];  // at this block's first position
  const long* offsets;        // of each chunk, in elements
  long chunks, row;           // row: elements from one position to the next
  const uint16_t* panel;
  int planes_used;
  float* out;                 // [MT][NT][256]
};

#define A_TILE(reg, q, m) _tile_loadd(reg, b.planes[q] + off + (m) * 16 * b.row, bytes)

void block_2x2(const Block& b) {
  long bytes = b.row * 2;
  _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
  for (long k = 0; k < b.chunks; k++) {
    long off = b.offsets[k];
    _tile_loadd(4, b.panel + k * 1024, 64); _tile_loadd(5, b.panel + k * 1024 + 512, 64);
    for (int q = 0; q < b.planes_used; q++) {
      A_TILE(6, q, 0); A_TILE(7, q, 1);
      _tile_dpbf16ps(0, 6, 4); _tile_dpbf16ps(1, 6, 5); _tile_dpbf16ps(2, 7, 4); _tile_dpbf16ps(3, 7, 5);
    }
  }
  _tile_stored(0, b.out, 64); _tile_stored(1, b.out + 256, 64); _tile_stored(2, b.out + 512, 64); _tile_stored(3, b.out + 768, 64);
}

void block_4x1(const Block& b) {
  long bytes = b.row * 2;
  _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
  for (long k = 0; k < b.chunks; k++) {
    long off = b.offsets[k];
    _tile_loadd(4, b.panel + k * 512, 64);
    for (int q = 0; q < b.planes_used; q++) {
      A_TILE(5, q, 0); A_TILE(6, q, 1); A_TILE(7, q, 2);
      _tile_dpbf16ps(0, 5, 4); _tile_dpbf16ps(1, 6, 4); _tile_dpbf16ps(2, 7, 4);
      A_TILE(5, q, 3);
      _tile_dpbf16ps(3, 5, 4);
    }
  }
  _tile_stored(0, b.out, 64); _tile_stored(1, b.out + 256, 64); _tile_stored(2, b.out + 512, 64); _tile_stored(3, b.out + 768, 64);
}

void block_1x4(const Block& b) {
  long bytes = b.row * 2;
  _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
  for (long k = 0; k < b.chunks; k++) {
    long off = b.offsets[k];
    const uint16_t* p = b.panel + k * 2048;
    for (int q = 0; q < b.planes_used; q++) {
      A_TILE(4, q, 0);
      _tile_loadd(5, p, 64); _tile_loadd(6, p + 512, 64); _tile_loadd(7, p + 1024, 64);
      _tile_dpbf16ps(0, 4, 5); _tile_dpbf16ps(1, 4, 6); _tile_dpbf16ps(2, 4, 7);
      _tile_loadd(5, p + 1536, 64);
      _tile_dpbf16ps(3, 4, 5);
    }
  }
  _tile_stored(0, b.out, 64); _tile_stored(1, b.out + 256, 64); _tile_stored(2, b.out + 512, 64); _tile_stored(3, b.out + 768, 64);
}

// One row of pixels tiles against `tiles` (1 to 4) row blocks of a panel that is `tiles` wide.
void block_1xn(const Block& b, int tiles) {
  long bytes = b.row * 2;
  for (int n = 0; n < tiles; n++) {
    _tile_zero(0); _tile_zero(1); _tile_zero(2);
    for (long k = 0; k < b.chunks; k++) {
      long off = b.offsets[k];
      _tile_loadd(4, b.panel + (k * tiles + n) * 512, 64);
      A_TILE(5, 0, 0);
      _tile_dpbf16ps(0, 5, 4);
      if (b.planes_used > 1) { A_TILE(6, 1, 0); _tile_dpbf16ps(1, 6, 4); }
      if (b.planes_used > 2) { A_TILE(7, 2, 0); _tile_dpbf16ps(2, 7, 4); }
    }
    alignas(64) float part[3][256];
    _tile_stored(0, part[0], 64); _tile_stored(1, part[1], 64); _tile_stored(2, part[2], 64);
    for (int i = 0; i < 256; i += 16) {  // small terms first
      __m512 low = _mm512_add_ps(_mm512_load_ps(part[2] + i), _mm512_load_ps(part[1] + i));
      _mm512_store_ps(b.out + n * 256 + i, _mm512_add_ps(low, _mm512_load_ps(part[0] + i)));
    }
  }
}

void epilogue(const Conv* c, const float* acc, const int32_t* map, int row) {  // acc: 16 positions x 16 rows
  int R = c->weights->R, lanes = R - row < 16 ? R - row : 16;
  __mmask16 mask = (__mmask16)((1u << lanes) - 1);
  __m512 floor = _mm512_set1_ps(c->relu ? 0.f : -__builtin_inff());
  for (int i = 0; i < c->p; i++) {
    int ch = i * R + row;
    __m512 scale = _mm512_maskz_loadu_ps(mask, c->scale + ch), shift = _mm512_maskz_loadu_ps(mask, c->shift + ch);
    for (int m = 0; m < 16; m++) {
      if (map[m] < 0) continue;
      long at = (long)map[m] * c->out_stride + ch;
      __m512 y = _mm512_fmadd_ps(_mm512_load_ps(acc + 16 * m), scale, shift);
      if (c->residual) y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(mask, c->residual + at));
      _mm512_mask_storeu_ps(c->out + at, mask, _mm512_max_ps(floor, y));  // a NaN in y is kept
    }
  }
}

struct Input {
  const uint16_t* planes[3];
  long* offsets;      // per chunk
  int32_t* map;
  long positions, row;
};

void* slot(const Conv* c, int n, long bytes) { return c->scratch->get(c->scratch, n, bytes); }

void plane_pointers(const Conv* c, long elements, uint16_t** planes) {
  uint16_t* base = (uint16_t*)slot(c, 0, c->planes * elements * 2);
  for (int q = 0; q < c->planes; q++) planes[q] = base + q * elements;
}

// Every output pixel's K inputs in a row: no waste on borders, copied kh * kw times.
Input columns(const Conv* c) {
  const Weights* w = c->weights;
  long M = (long)c->G * c->Ho * c->Wo, width = chunks_of(w) * 32, rows = round_up(M, 64);
  uint16_t* planes[3] = {};
  plane_pointers(c, rows * width, planes);
  int direct = w->kh * w->kw == 1;
  float* line = direct ? 0 : (float*)slot(c, 3, w->K * 4 + 64);
  Input in;
  in.map = (int32_t*)slot(c, 1, rows * 4);
  long i = 0;
  for (int g = 0; g < c->G; g++)
    for (int y = 0; y < c->Ho; y++)
      for (int x = 0; x < c->Wo; x++, i++) {
        const float* from = line;
        if (direct && c->ph == 0 && c->pw == 0) {
          from = c->in + (((long)g * c->H + (long)y * c->sh) * c->W + (long)x * c->sw) * c->in_stride;
        } else {
          if (direct) from = line = (float*)slot(c, 3, w->K * 4 + 64);
          for (int ky = 0; ky < w->kh; ky++)
            for (int kx = 0; kx < w->kw; kx++) {
              int Y = y * c->sh + ky * c->dh - c->ph, X = x * c->sw + kx * c->dw - c->pw;
              float* to = line + (long)(ky * w->kw + kx) * w->C;
              if (Y < 0 || Y >= c->H || X < 0 || X >= c->W) memset(to, 0, w->C * 4);
              else memcpy(to, c->in + (((long)g * c->H + Y) * c->W + X) * c->in_stride, w->C * 4);
            }
        }
        uint16_t* to[3];
        for (int q = 0; q < c->planes; q++) to[q] = planes[q] + i * width;
        split(from, w->K, width, to, c->planes);
        in.map[i] = (int32_t)i;
      }
  for (; i < rows; i++) in.map[i] = -1;
  for (int q = 0; q < c->planes; q++) memset(planes[q] + M * width, 0, (rows - M) * width * 2);
  in.offsets = (long*)slot(c, 4, chunks_of(w) * sizeof(long));
  for (long k = 0; k < chunks_of(w); k++) in.offsets[k] = 32 * k;
  for (int q = 0; q < 3; q++) in.planes[q] = planes[q < c->planes ? q : 0];
  in.positions = M, in.row = width;
  return in;
}

// Every input pixel once; a tap is an offset. Computes some positions that are no output.
Input flat(const Conv* c, const Flat& f) {
  const Weights* w = c->weights;
  long C = w->C, size = (long)f.phases_x * f.phases_y * f.phase_size;
  uint16_t* planes[3] = {};
  plane_pointers(c, size * C, planes);
  if (f.phases_x * f.phases_y > 1) {
    for (int q = 0; q < c->planes; q++) memset(planes[q], 0, size * C * 2);
  } else {  // only what lies between the pixels
    long done = 0;
    for (int g = 0; g <= c->G; g++)
      for (int y = 0; y < (g < c->G ? c->H : 1); y++) {
        long at = g < c->G ? pixel_position(c, &f, g, y, 0) : size;
        for (int q = 0; q < c->planes; q++) memset(planes[q] + done * C, 0, (at - done) * C * 2);
        done = at + c->W;
      }
  }
  for (int g = 0; g < c->G; g++)
    for (int y = 0; y < c->H; y++)
      for (int x = 0; x < c->W; x++) {
        uint16_t* to[3];
        long at = pixel_position(c, &f, g, y, x);
        for (int q = 0; q < c->planes; q++) to[q] = planes[q] + at * C;
        split(c->in + (((long)g * c->H + y) * c->W + x) * c->in_stride, C, C, to, c->planes);
      }
  Input in;
  long rows = round_up(f.positions, 64);
  in.map = (int32_t*)slot(c, 1, rows * 4);
  output_map(c, &f, in.map, rows);
  in.offsets = (long*)slot(c, 4, chunks_of(w) * sizeof(long));
  long k = 0;
  for (int ky = 0; ky < w->kh; ky++)
    for (int kx = 0; kx < w->kw; kx++)
      for (long ch = 0; ch < C; ch += 32) in.offsets[k++] = tap_offset(c, &f, ky, kx) * C + ch;
  for (int q = 0; q < 3; q++) in.planes[q] = planes[q < c->planes ? q : 0];
  in.positions = f.positions, in.row = C;
  return in;
}

int use_columns(const Conv* c, const Flat& f) {
  const Weights* w = c->weights;
  if (!per_tap(w) || w->kh * w->kw == 1) return 1;
  long M = (long)c->G * c->Ho * c->Wo, tiles = (w->R + 15) / 16, exact = round_up(M, 16) / 16, more = round_up(f.positions, 16) / 16;
  long products = chunks_of(w) * tiles * c->planes * 16;  // cycles per 16 positions
  return exact * products + M * chunks_of(w) * 8 < more * products;
}

void run(const Conv* c, const Input& in) {
  const Weights* w = c->weights;
  long chunks = chunks_of(w), blocks = (w->R + 15) / 16, m_tiles = (in.positions + 15) / 16;
  const uint32_t* words = (const uint32_t*)w->data;
  int wide = m_tiles == 1 ? 4 : blocks == 1 ? 1 : 2;
  uint16_t* panel = (uint16_t*)slot(c, 2, chunks * wide * 1024);
  alignas(64) float acc[4 * 256];
  Block b;
  b.offsets = in.offsets, b.chunks = chunks, b.row = in.row, b.planes_used = c->planes, b.out = acc, b.panel = panel;
  for (long n = 0; n < blocks; n += wide) {
    int tiles = blocks - n < wide ? (int)(blocks - n) : wide;
    decode(words + n * chunks * 16, chunks * 16, chunks, tiles, panel);
    for (long m = 0; m < m_tiles;) {
      for (int q = 0; q < 3; q++) b.planes[q] = in.planes[q] + m * 16 * in.row;
      int mt = 1;
      if (tiles == 4) block_1x4(b);
      else if (tiles == 2 && m_tiles - m >= 2) block_2x2(b), mt = 2;
      else if (tiles == 1 && m_tiles - m >= 4) block_4x1(b), mt = 4;
      else block_1xn(b, tiles);
      for (int i = 0; i < mt; i++)
        for (int j = 0; j < tiles; j++) epilogue(c, acc + (i * tiles + j) * 256, in.map + (m + i) * 16, (int)(n + j) * 16);
      m += mt;
    }
  }
}

void conv(const Conv* c) {
  const Weights* w = c->weights;
  if (w->kind == KIND_FLOAT) return tbn_level_avx512.conv(c);
  if (w->rows && (long)c->G * c->Ho * c->Wo < FEW_PIXELS) {
    Weights looked_up = *w;
    looked_up.data = w->rows;
    Conv same = *c;
    same.weights = &looked_up;
    return tbn_level_avx512.conv(&same);
  }
  Flat f = flat_of(c);
  configure();
  run(c, use_columns(c, f) ? columns(c) : flat(c, f));
  _tile_release();
}

long peak(int kind, long n) { return tbn_level_avx512.peak(kind, n); }

}  // namespace

extern "C" {
extern const Level tbn_level_amx = {"amx", available, prepare, conv, peak};
}
