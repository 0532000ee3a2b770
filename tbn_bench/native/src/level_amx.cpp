// Intel's matrix unit (AMX). A sign is +-1 and an activation a sum of few small numbers ("planes"), so that every product is exact:
// float32 is the sum of three bfloat16 numbers (8 + 8 + 8 bits of its 24-bit significand, by truncation), summed in float32;
// 14-bit activations (PLANES_A14) are 128 * high + low in int8, summed in int32. One or two bfloat16 planes are faster and less exact.
//
// Weights stay one bit each. The rows of the first operand are positions, [group of channels][position][plane][64 bytes]; a tap of a
// kernel is an offset in positions. The second operand, 16 rows of signs, is decoded into a small panel while the unit multiplies.
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

// Fewer output pixels than these are looked up: the unit takes 16 at a time, however few there are.
const long FEW_PIXELS = 8, FEW_PIXELS_A14 = 4;
const float LIMIT = 8191.f;  // of 14-bit activations, as in lookup512.inc

int ask() {
#if defined(TBN_EMULATED_AMX)  // tests/native/amx_emulator.h
  return tbn_level_avx512.available();
#elif defined(__linux__)
  unsigned a, b, c, d;
  __asm__("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(7), "c"(0));
  int bf16 = (d >> 22) & 1, tile = (d >> 24) & 1, int8 = (d >> 25) & 1;
  if (!bf16 || !tile || !int8 || !tbn_level_avx512.available()) return 0;
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

#define ORDERED() __asm__ volatile("" ::: "memory")  // the tile intrinsics do not tell the compiler what memory they read

struct alignas(64) Config {
  uint8_t palette, start, reserved[14];
  uint16_t bytes[16];
  uint8_t rows[16];
};

void configure() {
  Config c;
  memset(&c, 0, sizeof c);
  c.palette = 1;
  for (int i = 0; i < 8; i++) {
    c.bytes[i] = 64;
    c.rows[i] = 16;
  }
  ORDERED();
  _tile_loadconfig(&c);
}

long round_up(long n, long to) { return (n + to - 1) / to * to; }

}  // namespace

#include "amx_blocks.inc"

namespace {

// ---- activations

struct Input {
  char* rows;        // [group of columns][position][planes][64 bytes]
  long row, group;   // bytes from one position, and one group, to the next
  Step* steps;
  long count;
  int32_t* map;      // position -> output pixel, or -1
  float* step;       // of 14-bit activations: what one unit of a position's sums is worth
  long positions;
};

void* scratch(const Conv* c, Slot slot, long bytes) { return c->scratch->get(c->scratch, slot, bytes); }

inline __m512 some(const float* x, long left) {
  return left >= 16 ? _mm512_loadu_ps(x) : _mm512_maskz_loadu_ps(left > 0 ? (__mmask16)((1u << left) - 1) : 0, x);
}

template <int PLANES>
struct Form {
  enum { planes = PLANES, unit = 32 };  // unit: columns in 64 bytes
  // x: (n) float32 -> planes of bfloat16, at to, to + group, ...
  static inline void put(const float* x, long n, float, char* to, long group) {
    const __m512i high = _mm512_set1_epi32((int)0xffff0000u);
    alignas(64) static const uint16_t odd[32] = {1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31,
                                                 33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
    const __m512i pick = _mm512_load_si512(odd);  // the upper half of each of 32 float32
    for (long k = 0; k < n; k += 32) {
      __m512 a = some(x + k, n - k), b = some(x + k + 16, n - k - 16);
#pragma GCC unroll 3
      for (int q = 0; q < PLANES; q++) {
        __m512i ia = _mm512_castps_si512(a), ib = _mm512_castps_si512(b);
        _mm512_store_si512(to + 64 * q, _mm512_permutex2var_epi16(ia, pick, ib));
        a = _mm512_sub_ps(a, _mm512_castsi512_ps(_mm512_and_si512(ia, high)));
        b = _mm512_sub_ps(b, _mm512_castsi512_ps(_mm512_and_si512(ib, high)));
      }
      to += group;
    }
  }
};

template <>
struct Form<INT8> {
  enum { planes = 2, unit = 64 };
  // x: (n) float32 -> round(x * inverse) = 128 * high + low in int8.
  static inline void put(const float* x, long n, float inverse, char* to, long group) {
    const __m512 scale = _mm512_set1_ps(inverse);
    const __m512i low = _mm512_set1_epi32(127);
    for (long k = 0; k < n; k += 64) {
#pragma GCC unroll 4
      for (int i = 0; i < 4; i++) {
        __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(some(x + k + 16 * i, n - k - 16 * i), scale));
        _mm_store_si128((__m128i*)(to + 16 * i), _mm512_cvtepi32_epi8(_mm512_srai_epi32(q, 7)));
        _mm_store_si128((__m128i*)(to + 64 + 16 * i), _mm512_cvtepi32_epi8(_mm512_and_si512(q, low)));
      }
      to += group;
    }
  }
};

// 14-bit activations have a step per pixel where pixels are on their own, else one per image: (inverse, step) of every such unit, [2][units].
float* steps_of(const Conv* c) {
  long n = on_their_own(c) ? (long)c->G * c->H * c->W : c->G, pixels = on_their_own(c) ? 1 : (long)c->H * c->W, C = c->weights->C;
  float* inverse = (float*)scratch(c, SLOT_UNITS, 2 * n * 4 + 64);
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);  // as integers, magnitudes are in order, and NaN is the largest
  for (long u = 0; u < n; u++) {
    __m512i top = _mm512_setzero_si512();
    for (long i = 0; i < pixels; i++)
      for (long k = 0; k < C; k += 16)
        top = _mm512_max_epu32(top, _mm512_and_si512(_mm512_castps_si512(some(c->in + (u * pixels + i) * c->in_stride + k, C - k)),
                                                     magnitude));
    uint32_t bits = _mm512_reduce_max_epu32(top);
    float largest;
    memcpy(&largest, &bits, 4);
    int broken = bits >= 0x7f800000u;  // NaN or infinity: the whole unit becomes NaN, so that it shows
    inverse[u] = broken || !(largest > 0) ? 0.f : LIMIT / largest;
    inverse[n + u] = broken ? __builtin_nanf("") : largest / LIMIT;
  }
  return inverse;
}

// Begins an input of `size` positions of which `positions` are computed; returns each unit's inverse step, or NULL in float32.
template <int FORM>
const float* begin(const Conv* c, Input* in, long size, long positions) {
  long rows = round_up(positions, 64), planes = Form<FORM>::planes, unit = Form<FORM>::unit;
  in->row = 64 * planes;
  in->group = (size * planes | 1) * 64;  // an odd number of lines, so that groups meet different sets of the cache
  in->rows = (char*)scratch(c, SLOT_INPUT, in->group * ((c->weights->C + unit - 1) / unit));
  in->positions = positions;
  in->map = (int32_t*)scratch(c, SLOT_MAP, rows * 4);
  in->count = 0;
  in->step = 0;
  for (long i = 0; i < rows; i++) in->map[i] = -1;
  if (FORM != INT8) return 0;
  in->step = (float*)scratch(c, SLOT_STEPS, rows * 4);
  return steps_of(c);
}

// The output pixels of row y of image g have the positions from `position` on.
void place(const Conv* c, Input* in, int g, int y, long position, const float* inverse) {
  long pixel = ((long)g * c->Ho + y) * c->Wo, own = on_their_own(c), n = own ? (long)c->G * c->H * c->W : c->G;
  for (int x = 0; x < c->Wo; x++) {
    in->map[position + x] = (int32_t)(pixel + x);
    if (inverse) in->step[position + x] = inverse[n + (own ? pixel + x : g)];
  }
}

void zero(const Input& in, long groups, long from, long count) {
  for (long n = 0; n < groups; n++) memset(in.rows + n * in.group + from * in.row, 0, count * in.row);
}

// One step per tap and unit of channels. Tap (ky, kx) begins at position ky * down + kx * right of phase ky * dh % sh; each phase begins
// `phase` positions after the one before. Channels are outermost, so that inputs that the taps of a unit share stay in the first-level cache.
template <int FORM>
void walk(const Conv* c, Input* in, long pitch, long right, long phase) {
  const Weights* w = c->weights;
  long taps = (long)w->kh * w->kw, unit = Form<FORM>::unit, groups = (w->C + unit - 1) / unit, chunks = (w->C + 31) / 32;
  in->steps = (Step*)scratch(c, SLOT_TAPS, taps * groups * sizeof(Step));
  for (long n = 0; n < groups; n++)
    for (long t = 0; t < taps; t++) {
      long y = t / w->kw * c->dh, at = y % c->sh * phase + y / c->sh * pitch + t % w->kw * right;
      in->steps[in->count++] = {n * in->group + at * in->row, (t * chunks + n * unit / 32) * 16};
    }
}

// 1 x 1 layers without padding: the columns of each output pixel.
template <int FORM>
Input columns(const Conv* c) {
  long M = (long)c->G * c->Ho * c->Wo, unit = Form<FORM>::unit, C = c->weights->C, own = on_their_own(c);
  Input in;
  const float* inverse = begin<FORM>(c, &in, round_up(M, 64), M);
  for (int g = 0; g < c->G; g++)
    for (int y = 0; y < c->Ho; y++) place(c, &in, g, y, ((long)g * c->Ho + y) * c->Wo, inverse);
  for (long k = 0; k < C; k += 256) {  // some columns of all pixels, so that writes are close together in memory
    long i = 0, count = C - k < 256 ? C - k : 256;
    for (int g = 0; g < c->G; g++)
      for (int y = 0; y < c->Ho; y++) {
        const float* from = c->in + ((long)g * c->H + (long)y * c->sh) * c->W * c->in_stride + k;
        for (int x = 0; x < c->Wo; x++) {
          Form<FORM>::put(from, count, inverse ? inverse[own ? i : g] : 0.f, in.rows + k / unit * in.group + i * in.row, in.group);
          from += (long)c->sw * c->in_stride;
          i++;
        }
      }
  }
  walk<FORM>(c, &in, 0, 0, 0);
  return in;
}

// Stride 1: every input pixel once, a margin of zeros between rows and images. Computes the margin's positions for nothing.
template <int FORM>
Input flat(const Conv* c, const Flat& f) {
  const Weights* w = c->weights;
  long unit = Form<FORM>::unit, groups = (w->C + unit - 1) / unit, done = 0;
  Input in;
  const float* inverse = begin<FORM>(c, &in, f.phase_size, f.positions);
  for (int g = 0; g < c->G; g++) {
    for (int y = 0; y < c->H; y++) {
      long at = ((long)g * f.image_rows + y + c->ph) * f.pitch + c->pw;
      zero(in, groups, done, at - done);
      done = at + c->W;
      const float* from = c->in + ((long)g * c->H + y) * c->W * c->in_stride;
      for (int x = 0; x < c->W; x++)
        Form<FORM>::put(from + (long)x * c->in_stride, w->C, inverse ? inverse[g] : 0.f, in.rows + (at + x) * in.row, in.group);
    }
    for (int y = 0; y < c->Ho; y++) place(c, &in, g, y, ((long)g * f.image_rows + y) * f.pitch, inverse);
  }
  long end = f.phase_size - 96;  // no output reads further
  if (end > done) zero(in, groups, done, end - done);
  walk<FORM>(c, &in, f.pitch, c->dw, 0);
  return in;
}

// Any stride. Each column kx of the kernel has its own copy of the inputs that it reads:
// [kx][row modulo stride][image][row / stride][output column]. Only the rows between images are computed in vain, and each input pixel is
// stored about kw / stride times.
template <int FORM>
Input spread(const Conv* c) {
  const Weights* w = c->weights;
  long unit = Form<FORM>::unit, groups = (w->C + unit - 1) / unit;
  long height = (c->H + 2 * c->ph + c->sh - 1) / c->sh, need = c->Ho + (long)(w->kh - 1) * c->dh / c->sh;
  if (height < need) height = need;
  long phase = c->G * height * c->Wo, next = 0;
  Input in;
  const float* inverse = begin<FORM>(c, &in, w->kw * c->sh * phase + 64, (c->G - 1) * height * c->Wo + (long)c->Ho * c->Wo);
  for (int kx = 0; kx < w->kw; kx++)
    for (int sy = 0; sy < c->sh; sy++)
      for (int g = 0; g < c->G; g++)
        for (int row = 0; row < height; row++) {
          const long at = next;
          next += c->Wo;
          long y = (long)row * c->sh + sy - c->ph;
          if (y < 0 || y >= c->H) {
            zero(in, groups, at, c->Wo);
            continue;
          }
          const float* from = c->in + ((long)g * c->H + y) * c->W * c->in_stride;
          for (int i = 0; i < c->Wo; i++) {
            long x = (long)i * c->sw + kx * c->dw - c->pw;
            if (x < 0 || x >= c->W) zero(in, groups, at + i, 1);
            else Form<FORM>::put(from + x * c->in_stride, w->C, inverse ? inverse[g] : 0.f, in.rows + (at + i) * in.row, in.group);
          }
        }
  for (int g = 0; g < c->G; g++)
    for (int y = 0; y < c->Ho; y++) place(c, &in, g, y, (g * height + y) * c->Wo, inverse);
  walk<FORM>(c, &in, c->Wo, c->sh * phase, phase);
  return in;
}

// Whether the margins of flat() cost more products than spread() costs copies: cycles for each plane of a unit of channels.
int margins_cost(const Conv* c, const Flat& f) {
  long blocks = (c->weights->R + 15) / 16, taps = (long)c->weights->kh * c->weights->kw;
  long more = (f.positions + 15) / 16 - ((long)c->G * c->Ho * c->Wo + 15) / 16;
  return more * blocks * taps * 16 > 5L * (c->weights->kw - 1) * c->G * c->H * c->W;
}

template <int FORM>
Input input_of(const Conv* c) {
  const Weights* w = c->weights;
  int inside = !c->ph && !c->pw && (c->Ho - 1) * c->sh < c->H && (c->Wo - 1) * c->sw < c->W;
  if (w->K == w->C && inside) return columns<FORM>(c);
  if (c->sh > 1 || c->sw > 1) return spread<FORM>(c);
  Flat f = flat_of(c);
  return margins_cost(c, f) ? spread<FORM>(c) : flat<FORM>(c, f);
}

// ---- results

template <int FORM>
inline __m512 sum_at(const char* sums, long low, float step) {
  if (FORM != INT8) return _mm512_load_ps(sums);
  __m512i whole = _mm512_add_epi32(_mm512_slli_epi32(_mm512_load_si512(sums), 7), _mm512_load_si512(sums + low));
  return _mm512_mul_ps(_mm512_cvtepi32_ps(whole), _mm512_set1_ps(step));
}

// The sums of `count` positions from `first` on -> their output channels. Where there are many rows, one copy of the tile is
// written after the other, so that consecutive writes are neighbours in memory.
template <int FORM>
void finish(const Conv* c, const Input& in, const char* sums, long pitch, long low, long first, long count) {
  const long R = c->weights->R, p = c->p;
  const float *scale = c->scale, *shift = c->shift, *residual = c->residual;
  const __m512 floor = _mm512_set1_ps(c->relu ? 0.f : -__builtin_inff());
  float* const out = c->out;
  const long stride = c->out_stride;
  auto put = [=](__m512 sum, long channel, long at, __mmask16 mask) {
    __m512 y = _mm512_fmadd_ps(sum, _mm512_maskz_loadu_ps(mask, scale + channel), _mm512_maskz_loadu_ps(mask, shift + channel));
    if (residual) y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(mask, residual + at));
    _mm512_mask_storeu_ps(out + at, mask, _mm512_max_ps(floor, y));  // a NaN in y is kept
  };
  auto mask_of = [=](long r) { return R - r < 16 ? (__mmask16)((1u << (R - r)) - 1) : (__mmask16)0xffff; };
  const int32_t* map = in.map + first;
  if (R <= 64) {
    for (long r = 0; r < R; r += 16) {
      __mmask16 mask = mask_of(r);
      for (long m = 0; m < count; m++) {
        if (map[m] < 0) continue;
        __m512 sum = sum_at<FORM>(sums + m * pitch + r * 4, low, FORM == INT8 ? in.step[first + m] : 0.f);
        long at = (long)map[m] * stride + r;
        for (long i = 0; i < p; i++) put(sum, i * R + r, at + i * R, mask);
      }
    }
    return;
  }
  for (long m = 0; m < count; m++) {
    if (map[m] < 0) continue;
    long at = (long)map[m] * stride;
    for (long i = 0; i < p; i++) {
      for (long r = 0; r < R; r += 16)
        put(sum_at<FORM>(sums + m * pitch + r * 4, low, FORM == INT8 ? in.step[first + m] : 0.f), i * R + r, at + r, mask_of(r));
      at += R;
    }
  }
}

template <int FORM>
void multiply(const Conv* c, const Input& in) {
  const Weights* w = c->weights;
  long blocks = (w->R + 15) / 16, tiles = (in.positions + 15) / 16;
  int widest = blocks == 1 ? 1 : FORM != INT8 && tiles == 1 ? 4 : 2, tallest = FORM == INT8 ? 3 - widest : 4 / widest;
  alignas(64) char panel[RING * 4 * 1024];
  Block b;
  b.row = in.row;
  b.steps = in.steps;
  b.count = in.count;
  b.block = (long)w->kh * w->kw * ((w->C + 31) / 32) * 16;
  b.panel = panel;
  b.pitch = blocks * 64;
  b.low = (FORM == INT8 ? 2 : tallest) * 16 * b.pitch;  // the last row block of int8 takes two tiles
  char* sums = (char*)scratch(c, SLOT_SUMS, (FORM == INT8 ? 2 : 1) * b.low);
  for (long m = 0; m < tiles;) {
    int tall = tiles - m >= tallest || FORM == INT8 ? tallest : 1;  // of an int8 block the second tile may be of no use
    b.rows = in.rows + m * 16 * in.row;
    for (long n = 0; n < blocks;) {
      int wide = widest;
      while (n + wide > blocks) wide /= 2;
      b.words = (const uint32_t*)w->data + n * b.block;
      b.sums = sums + n * 64;
      if (FORM == INT8 && wide == 2) block_1x2_int8(b);
      else if (FORM == INT8) block_2x1_int8(b);
      else if (wide == 4) block_1x4<FORM>(b);
      else if (wide == 2 && tall == 2) block_2x2<FORM>(b);
      else if (tall == 4) block_4x1<FORM>(b);
      else
        for (int i = 0; i < tall * wide; i++) {
          Block one = b;
          one.rows += i / wide * 16 * in.row;
          one.words += i % wide * b.block;
          one.sums += i / wide * 16 * b.pitch + i % wide * 64;
          block_1x1<FORM>(one);
        }
      n += wide;
    }
    ORDERED();
    long first = m * 16, count = in.positions - first < tall * 16 ? in.positions - first : tall * 16;
    finish<FORM>(c, in, sums, b.pitch, b.low, first, count);
    m += tall;
  }
}

template <int FORM>
void run(const Conv* c) { multiply<FORM>(c, input_of<FORM>(c)); }

// A list of pixels, some at a time: what the unit reads again for each row block should stay in the second-level cache.
template <int FORM>
void run_pixels(const Conv* c) {
  const long BYTES = 512 << 10, some = BYTES / (round_up(c->weights->K, 64) * Form<FORM>::planes * (FORM == INT8 ? 1 : 2)) & ~31L;
  long step = some < 32 ? 32 : some, pixels = (long)c->G * c->H * c->W;
  Conv part = *c;
  part.G = part.H = part.Ho = 1;
  for (long i = 0; i < pixels; i += step) {
    part.W = part.Wo = (int)(pixels - i < step ? pixels - i : step);
    run<FORM>(&part);
    part.in += step * c->in_stride;
    part.out += step * c->out_stride;
    if (part.residual) part.residual += step * c->out_stride;
  }
}

template <int FORM>
void run_any(const Conv* c) { on_their_own(c) ? run_pixels<FORM>(c) : run<FORM>(c); }

void conv(const Conv* c) {
  const Weights* w = c->weights;
  long pixels = (long)c->G * c->Ho * c->Wo, few = c->planes == PLANES_A14 ? FEW_PIXELS_A14 : FEW_PIXELS;
  if (w->kind != KIND_SIGNS || pixels < few) return tbn_level_avx512.conv(c);
  SixteenRows whole(c);
  configure();
  if (c->planes == PLANES_A14) run_any<INT8>(&whole.conv);
  else if (c->planes == 3) run_any<3>(&whole.conv);
  else if (c->planes == 2) run_any<2>(&whole.conv);
  else run_any<1>(&whole.conv);
  _tile_release();
}

int prepare(Weights* w, const uint8_t* bits, const float* dense) { return tbn_level_avx512.prepare(w, bits, dense); }

// The matrix unit alone, on numbers as networks have them: it runs slower on those than on zeros.
long peak(int kind, long n) {
  if (kind != PEAK_MATRIX && kind != PEAK_MATRIX_A14) return tbn_level_avx512.peak(kind, n);
  alignas(64) uint16_t rows[2][512], signs[2][512];
  uint32_t state = 1;
  for (int i = 0; i < 1024; i++) {
    state = state * 1664525u + 1013904223u;
    rows[i / 512][i % 512] = kind == PEAK_MATRIX ? (uint16_t)(0x3f00 + (state >> 24) + (state >> 8 & 0x8000)) : (uint16_t)(state >> 9);
    signs[i / 512][i % 512] = kind == PEAK_MATRIX ? (uint16_t)(0x3f80 + (state >> 8 & 0x8000)) : state >> 23 & 1 ? 0x01ff : 0xff01;
  }
  configure();
  _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
  ORDERED();
  _tile_loadd(4, signs[0], 64); _tile_loadd(5, signs[1], 64); _tile_loadd(6, rows[0], 64); _tile_loadd(7, rows[1], 64);
  for (long k = 0; k < n; k++)
    if (kind == PEAK_MATRIX) {
      _tile_dpbf16ps(0, 6, 4); _tile_dpbf16ps(1, 6, 5); _tile_dpbf16ps(2, 7, 4); _tile_dpbf16ps(3, 7, 5);
    } else {
      _tile_dpbssd(0, 6, 4); _tile_dpbssd(1, 6, 5); _tile_dpbssd(2, 7, 4); _tile_dpbssd(3, 7, 5);
    }
  _tile_stored(0, rows[0], 64);  // waits for the last product
  _tile_release();
  return kind == PEAK_MATRIX ? n * 4 * 16 * 16 * 32 / 3 : n * 4 * 16 * 16 * 64 / 2;  // three planes of bfloat16, two of int8
}

void gelu(const float* x, float* y, long n) { tbn_level_avx512.gelu(x, y, n); }
void attention(const Attention* a) { tbn_level_avx512.attention(a); }

int takes(int planes) { return planes == PLANES_A14 ? available() && tbn_a14_available() : planes >= 1 && planes <= 3; }

}  // namespace

extern "C" {
extern const Level tbn_level_amx = {"amx", available, takes, prepare, conv, gelu, attention, peak, &tbn_norm_avx512, tbn_weight_gradient_avx512,
                                    tbn_group_conv_avx512, tbn_group_gradient_avx512};
}
