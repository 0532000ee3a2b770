// The plan executor: one call runs a whole network, a few images at a time through all its layers, so that activations stay in cache.
#include <stdlib.h>
#include <string.h>
#include <math.h>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <new>
#include <thread>
#include <vector>
#include "tbn.h"

#define API extern "C" __attribute__((visibility("default")))

namespace {

const Level* const kLevels[] = {
#if defined(__x86_64__)
    &tbn_level_amx, &tbn_level_avx512, &tbn_level_avx2,
#endif
    &tbn_level_generic};

struct Arena : Scratch {
  struct Part { void* data = nullptr; long bytes = 0; };
  Part parts[9];
  static void* grow(Scratch* self, int slot, long bytes) {
    Part& part = static_cast<Arena*>(self)->parts[slot];
    if (part.bytes < bytes) {
      free(part.data);
      part.bytes = bytes + bytes / 8;
      if (posix_memalign(&part.data, 64, part.bytes + 4096)) throw std::bad_alloc();
      memset(part.data, 0, part.bytes + 4096);
    }
    return part.data;
  }
  Arena() { get = grow; }
  ~Arena() { for (Part& p : parts) free(p.data); }
};

}  // namespace

struct Value { int32_t H, W, C, pad; int64_t offset; };

namespace {
long size_of(const Value& v) { return (long)v.H * v.W * v.C; }
}

// Op kinds of a plan; values are (G, H, W, C) float32 at `offset` floats per image into the arena.
enum OpKind { OP_CONV = 0, OP_ADD = 1, OP_RELU = 2, OP_MAX_POOL = 3, OP_AVG_POOL = 4, OP_MEAN = 5, OP_AFFINE = 6, OP_PAD_CHANNELS = 7,
              OP_CHW = 8, OP_LAYER_NORM = 9, OP_COPY = 10, OP_EXTREMES = 11, OP_GATHER = 12, OP_CLAMP = 13, OP_GELU = 14, OP_ATTENTION = 15, OP_PATCHES = 16, OP_TOKENS = 17,
              OP_SELECT = 18, OP_KINDS };

struct Op {
  int32_t kind, in, in2, out;              // value ids; in2 = -1 where there is none
  int32_t kh, kw, sh, sw, ph, pw, dh, dw;  // geometry of convolutions and pools; for PAD_CHANNELS sh, sw = subsampling, ph = channels in front
  int32_t groups, p, relu, R;              // R rows per group; of ATTENTION heads, of SELECT the position
  const void* weights;                     // one Weights* per group; of GATHER one coefficient per piece of every row, of TOKENS what is added
  const float *scale, *shift;              // (out channels)
  float eps, high;                         // of LAYER_NORM; of CLAMP both ends; of ATTENTION the scale
};

struct Plan {
  int32_t ops, values, inputs, outputs, planes, level;
  int64_t floats;           // arena floats per image
  int32_t group, reserved;  // images that go through together
  const Op* op;
  const Value* value;
  const int32_t *input, *output;                // value ids
  const int32_t *input_is_nhwc, *output_is_nhwc;  // how each lies outside; else (C, H, W)
};

API int tbn_level_count() { return (int)(sizeof kLevels / sizeof *kLevels); }
API const char* tbn_level_name(int i) { return kLevels[i]->name; }
API int tbn_level_available(int i) { return kLevels[i]->available(); }

// Whether a level can run with this number of planes (PLANES_A14: activations of 14 bits).
API int tbn_planes_available(int level, int planes) {
#if defined(__x86_64__)
  int wide = kLevels[level] == &tbn_level_avx512 || kLevels[level] == &tbn_level_amx;
  if (planes == PLANES_A14) return wide && kLevels[level]->available() && tbn_a14_available();
  if (kLevels[level] == &tbn_level_amx) return planes >= 1 && planes <= 3;
#endif
  (void)level;
  return planes == 3;
}

API void* tbn_prepare(int level, int kind, int R, int C, int kh, int kw, const uint8_t* bits, const float* dense) {
  Weights* w = (Weights*)calloc(1, sizeof(Weights));
  if (!w) return nullptr;
  w->kind = kind, w->R = R, w->C = C, w->kh = kh, w->kw = kw, w->K = (long)C * kh * kw;
  if (kLevels[level]->prepare(w, bits, dense)) { free(w); return nullptr; }
  return w;
}

API int64_t tbn_weight_bytes(const void* weights) { return weights ? ((const Weights*)weights)->bytes : 0; }

API void tbn_free(void* weights) {
  Weights* w = (Weights*)weights;
  if (w) free(w->data), free(w);
}

namespace {

// Output rows [y0, y1) of one image as a convolution of its own; rows below its input are zeros to every level, as padding is.
void cut(Conv* c, int y0, int y1) {
  int first = y0 * c->sh - c->ph, last = (y1 - 1) * c->sh + (c->weights->kh - 1) * c->dh - c->ph + 1;
  long pixels = (long)y0 * c->Wo;
  if (last > c->H) last = c->H;
  c->ph = first < 0 ? -first : 0;
  if (first < 0) first = 0;
  c->in += (long)first * c->W * c->in_stride;
  c->H = last > first ? last - first : 0;
  c->Ho = y1 - y0;
  c->out += pixels * c->out_stride;
  if (c->residual) c->residual += pixels * c->out_stride;
}

// part of parts: its share of the output rows of a single image (G == 1).
void conv(const Plan* plan, const Op& op, float* const* at, int G, Arena* scratch, int part, int parts) {
  const Value &in = plan->value[op.in], &out = plan->value[op.out];
  int y0 = (int)((long)out.H * part / parts), y1 = (int)((long)out.H * (part + 1) / parts);
  if (y0 == y1) return;
  Conv c;
  memset(&c, 0, sizeof c);
  c.G = G, c.in_stride = in.C, c.out_stride = out.C;
  c.sh = op.sh, c.sw = op.sw, c.pw = op.pw, c.dh = op.dh, c.dw = op.dw;
  c.p = op.p, c.relu = op.relu, c.planes = plan->planes, c.scratch = scratch;
  const float* residual = op.in2 < 0 ? nullptr : at[op.in2];
  for (int g = 0; g < op.groups; g++) {
    c.weights = ((Weights* const*)op.weights)[g];
    long first = (long)g * op.R * op.p;
    c.H = in.H, c.W = in.W, c.Ho = out.H, c.Wo = out.W, c.ph = op.ph;
    c.in = at[op.in] + (long)g * c.weights->C;
    c.out = at[op.out] + first;
    c.residual = residual ? residual + first : nullptr;
    c.scale = op.scale + first, c.shift = op.shift + first;
    if (parts > 1) cut(&c, y0, y1);
    kLevels[plan->level]->conv(&c);
  }
}

void pool(const Plan* plan, const Op& op, float* const* at, int G) {
  const Value &in = plan->value[op.in], &out = plan->value[op.out];
  const float* x = at[op.in];
  float* y = at[op.out];
  int C = in.C, max = op.kind == OP_MAX_POOL;
  for (long i = 0; i < (long)G * out.H * out.W; i++) {
    int g = (int)(i / (out.H * out.W)), oy = (int)(i / out.W % out.H), ox = (int)(i % out.W);
    float* to = y + i * C;
    for (int c = 0; c < C; c++) to[c] = max ? -INFINITY : 0.f;
    for (int ky = 0; ky < op.kh; ky++)
      for (int kx = 0; kx < op.kw; kx++) {
        int Y = oy * op.sh + ky - op.ph, X = ox * op.sw + kx - op.pw;
        if (Y < 0 || Y >= in.H || X < 0 || X >= in.W) continue;
        const float* from = x + (((long)g * in.H + Y) * in.W + X) * C;
        if (max) for (int c = 0; c < C; c++) to[c] = from[c] > to[c] || from[c] != from[c] ? from[c] : to[c];
        else for (int c = 0; c < C; c++) to[c] += from[c];
      }
    if (!max) for (int c = 0; c < C; c++) to[c] /= (float)(op.kh * op.kw);
  }
}

// (H, W, R) -> 1 x 1 x (p R): the largest value of each of R channels over all positions, p times, scaled and shifted; the smallest where
// the scale is negative. It is what a layer of p copies and a maximum over its positions give, with 1 / p of the stores in between.
void extremes(const Plan* plan, const Op& op, float* const* at, int G) {
  const int B = 64;
  const Value& in = plan->value[op.in];
  long pixels = (long)in.H * in.W;
  int R = in.C;
  for (int g = 0; g < G; g++)
    for (int first = 0; first < R; first += B) {
      const float* x = at[op.in] + g * pixels * R + first;
      float* y = at[op.out] + (long)g * op.p * R + first;
      int n = R - first < B ? R - first : B, falling = 0;
      float high[B], low[B];
      for (int k = 0; k < op.p; k++)
        for (int c = 0; c < n; c++) falling |= op.scale[k * R + first + c] < 0;
      memcpy(high, x, n * 4), memcpy(low, x, n * 4);
      for (long i = 1; i < pixels; i++) {
        const float* from = x + i * R;
        for (int c = 0; c < n; c++) high[c] = from[c] > high[c] || from[c] != from[c] ? from[c] : high[c];
        if (falling) for (int c = 0; c < n; c++) low[c] = from[c] < low[c] || from[c] != from[c] ? from[c] : low[c];
      }
      for (int k = 0; k < op.p; k++)
        for (int c = 0; c < n; c++) {
          float scale = op.scale[k * R + first + c], v = (scale < 0 ? low[c] : high[c]) * scale + op.shift[k * R + first + c];
          y[k * R + c] = op.relu && v < 0 ? 0.f : v;
        }
    }
}

// (H, W pieces, kinds) -> (H, W, rows): a row of a tile that ends inside rows is a sum of its pieces' products, each with its alpha; piece b
// of row r is the tile's piece (r pieces + b) modulo kinds.
void gather(const Plan* plan, const Op& op, float* const* at, int G) {
  const Value &in = plan->value[op.in], &out = plan->value[op.out];
  const float *x = at[op.in], *coefficient = (const float*)op.weights;
  float* y = at[op.out];
  long kinds = in.C, pieces = (long)in.W / out.W;
  for (long i = 0; i < (long)G * out.H * out.W; i++, x += pieces * kinds, y += out.C)
    for (long r = 0, kind = 0; r < out.C; r++) {
      float sum = 0.f;
      for (long b = 0; b < pieces; b++) {
        sum += coefficient[r * pieces + b] * x[b * kinds + kind];
        if (++kind == kinds) kind = 0;
      }
      float v = sum * op.scale[r] + op.shift[r];
      y[r] = op.relu && v < 0 ? 0.f : v;
    }
}

void mean(const Plan* plan, const Op& op, float* const* at, int G) {
  const Value& in = plan->value[op.in];
  long pixels = (long)in.H * in.W;
  for (int g = 0; g < G; g++) {
    const float* x = at[op.in] + (long)g * pixels * in.C;
    float* y = at[op.out] + (long)g * in.C;
    for (int c = 0; c < in.C; c++) y[c] = 0.f;
    for (long i = 0; i < pixels; i++)
      for (int c = 0; c < in.C; c++) y[c] += x[i * in.C + c];
    for (int c = 0; c < in.C; c++) y[c] /= (float)pixels;
  }
}

void pad_channels(const Plan* plan, const Op& op, float* const* at, int G) {
  const Value &in = plan->value[op.in], &out = plan->value[op.out];
  float* y = at[op.out];
  memset(y, 0, (long)G * out.H * out.W * out.C * 4);
  for (long i = 0; i < (long)G * out.H * out.W; i++) {
    int g = (int)(i / (out.H * out.W)), oy = (int)(i / out.W % out.H), ox = (int)(i % out.W);
    if (oy * op.sh >= in.H || ox * op.sw >= in.W) continue;  // zeros below and to the right
    const float* x = at[op.in] + (((long)g * in.H + (long)oy * op.sh) * in.W + (long)ox * op.sw) * in.C;
    memcpy(y + i * out.C + op.ph, x, in.C * 4);
  }
}

void pointwise(const Plan* plan, const Op& op, float* const* at, int G) {
  const Value& out = plan->value[op.out];
  const float *a = at[op.in], *b = op.in2 < 0 ? nullptr : at[op.in2];
  float* y = at[op.out];
  long n = (long)G * out.H * out.W * out.C;
  if (op.kind == OP_ADD)
    for (long i = 0; i < n; i++) { float v = a[i] + b[i]; y[i] = op.relu && v < 0 ? 0.f : v; }
  else if (op.kind == OP_RELU)
    for (long i = 0; i < n; i++) y[i] = a[i] < 0 ? 0.f : a[i];
  else if (op.kind == OP_CLAMP)
    for (long i = 0; i < n; i++) {
      float v = a[i] < op.eps ? op.eps : a[i];
      y[i] = v > op.high ? op.high : v;  // a NaN stays
    }
  else if (op.kind == OP_COPY)
    memcpy(y, a, n * 4);
  else
    for (long i = 0; i < n; i += out.C)
      for (int c = 0; c < out.C; c++) {
        float v = a[i + c] * op.scale[c] + op.shift[c];
        y[i + c] = op.relu && v < 0 ? 0.f : v;
      }
}

// x: (rows, columns) -> y: (columns, rows), in blocks that read and write whole cache lines.
void transpose(const float* x, long rows, long columns, float* y) {
  const long B = 16;
  if (rows < B) {  // the few channels of a picture
    for (long r = 0; r < rows; r++)
      for (long c = 0; c < columns; c++) y[c * rows + r] = x[r * columns + c];
    return;
  }
  float block[B][B];
  for (long r = 0; r < rows; r += B)
    for (long c = 0; c < columns; c += B) {
      long height = rows - r < B ? rows - r : B, width = columns - c < B ? columns - c : B;
      for (long i = 0; i < height; i++)
        for (long j = 0; j < width; j++) block[j][i] = x[(r + i) * columns + c + j];
      for (long j = 0; j < width; j++) memcpy(y + (c + j) * rows + r, block[j], height * 4);
    }
}

void chw(const Plan* plan, const Op& op, float* const* at, int G) {  // (H, W, C) -> 1 x 1 x (C, H, W)
  const Value& in = plan->value[op.in];
  const float* x = at[op.in];
  float* y = at[op.out];
  long pixels = (long)in.H * in.W;
  for (int g = 0; g < G; g++, x += pixels * in.C, y += pixels * in.C) transpose(x, pixels, in.C, y);
}

float sum_of(const float* x, int n, float center, int squared) {  // 16 sums side by side, which compilers make vectors of
  float s[16] = {}, total = 0;
  int k = 0;
  for (; k + 16 <= n; k += 16)
    for (int j = 0; j < 16; j++) {
      float d = x[k + j] - center;
      s[j] += squared ? d * d : d;
    }
  for (; k < n; k++) total += squared ? (x[k] - center) * (x[k] - center) : x[k] - center;
  for (float v : s) total += v;
  return total;
}

void layer_norm(const Plan* plan, const Op& op, float* const* at, int G) {  // over channels; biased variance, as torch
  const Value& in = plan->value[op.in];
  const float* x = at[op.in];
  float* y = at[op.out];
  for (long i = 0; i < (long)G * in.H * in.W; i++, x += in.C, y += in.C) {
    float mean = sum_of(x, in.C, 0.f, 0) / (float)in.C;
    float inverse = 1.f / sqrtf(sum_of(x, in.C, mean, 1) / (float)in.C + op.eps);
    for (int c = 0; c < in.C; c++) y[c] = (x[c] - mean) * inverse * op.scale[c] + op.shift[c];
  }
}


void attention(const Plan* plan, const Op& op, float* const* at, int G, Arena* arena) {  // (1, T, 3 heads depth) -> (1, T, heads depth)
  const Value &in = plan->value[op.in], &out = plan->value[op.out];
  for (int g = 0; g < G; g++) {
    Attention a = {at[op.in] + g * size_of(in), at[op.out] + g * size_of(out), (long)in.H * in.W, op.R, in.C / (3 * op.R), op.eps, arena};
    kLevels[plan->level]->attention(&a);
  }
}

void patches(const Plan* plan, const Op& op, float* const* at, int G) {  // (H, W, C) -> (1, patches, sh sw C), row by row of a patch
  const Value &in = plan->value[op.in], &out = plan->value[op.out];
  float* y = at[op.out];
  long line = (long)op.sw * in.C, across = in.W / op.sw;
  for (long i = 0; i < (long)G * out.W; i++) {
    long g = i / out.W, py = i % out.W / across, px = i % across;
    for (int row = 0; row < op.sh; row++, y += line) memcpy(y, at[op.in] + g * size_of(in) + (py * op.sh + row) * in.W * in.C + px * line, line * 4);
  }
}

void tokens(const Plan* plan, const Op& op, float* const* at, int G) {  // (1, T, C) -> (1, R + T, C): R further tokens in front, all plus a table
  const Value &in = plan->value[op.in], &out = plan->value[op.out];
  const float* table = (const float*)op.weights;
  long front = (long)op.R * in.C, rest = size_of(in);
  for (int g = 0; g < G; g++) {
    const float* x = at[op.in] + g * rest;
    float* y = at[op.out] + g * size_of(out);
    memcpy(y, table, front * 4);
    for (long i = 0; i < rest; i++) y[front + i] = x[i] + table[front + i];
  }
}

void select(const Plan* plan, const Op& op, float* const* at, int G) {  // one position -> (1, 1, C)
  const Value& in = plan->value[op.in];
  for (int g = 0; g < G; g++) memcpy(at[op.out] + (long)g * in.C, at[op.in] + g * size_of(in) + (long)op.R * in.C, in.C * 4);
}

void run_op(const Plan* plan, const Op& op, float* const* at, int G, Arena* arena) {
  switch (op.kind) {
    case OP_CONV: conv(plan, op, at, G, arena, 0, 1); break;
    case OP_MAX_POOL: case OP_AVG_POOL: pool(plan, op, at, G); break;
    case OP_EXTREMES: extremes(plan, op, at, G); break;
    case OP_GATHER: gather(plan, op, at, G); break;
    case OP_MEAN: mean(plan, op, at, G); break;
    case OP_PAD_CHANNELS: pad_channels(plan, op, at, G); break;
    case OP_CHW: chw(plan, op, at, G); break;
    case OP_LAYER_NORM: layer_norm(plan, op, at, G); break;
    case OP_GELU: kLevels[plan->level]->gelu(at[op.in], at[op.out], G * size_of(plan->value[op.in])); break;
    case OP_ATTENTION: attention(plan, op, at, G, arena); break;
    case OP_PATCHES: patches(plan, op, at, G); break;
    case OP_TOKENS: tokens(plan, op, at, G); break;
    case OP_SELECT: select(plan, op, at, G); break;
    default: pointwise(plan, op, at, G);
  }
}

// Images [i, i + G) of the inputs and outputs of a call. What lies outside as it would lie inside is read and written there, unless an
// output lies over an input.
struct Call {
  const Plan* plan;
  const float* const* in;
  float* const* out;
  bool apart;  // no output lies over an input

  Call(const Plan* plan, const float* const* in, float* const* out, int64_t n) : plan(plan), in(in), out(out), apart(true) {
    for (int k = 0; k < plan->inputs; k++)
      for (int j = 0; j < plan->outputs; j++) {
        const float *x = in[k], *y = out[j];
        if (x < y + n * size_of(plan->value[plan->output[j]]) && y < x + n * size_of(plan->value[plan->input[k]])) apart = false;
      }
  }

  bool same(int value, int nhwc) const {
    const Value& v = plan->value[value];
    return nhwc || v.H * v.W == 1 || v.C == 1;
  }

  // Where every value of these images lies: outside, or in the arena.
  float** places(int64_t i, int G, Arena* arena) const {
    float* base = (float*)arena->get(arena, 7, plan->floats * plan->group * 4);
    float** at = (float**)arena->get(arena, 8, plan->values * sizeof(float*));
    for (int v = 0; v < plan->values; v++) at[v] = base + plan->value[v].offset * G;
    for (int k = plan->outputs - 1; k >= 0 && apart; k--)
      if (same(plan->output[k], plan->output_is_nhwc[k])) at[plan->output[k]] = out[k] + i * size_of(plan->value[plan->output[k]]);
    for (int k = plan->inputs - 1; k >= 0 && apart; k--)
      if (same(plan->input[k], plan->input_is_nhwc[k]))
        at[plan->input[k]] = const_cast<float*>(in[k]) + i * size_of(plan->value[plan->input[k]]);  // no op writes to an input
    return at;
  }

  void copy_in(int64_t i, int G, float* const* at) const {
    for (int k = 0; k < plan->inputs; k++) {
      const Value& v = plan->value[plan->input[k]];
      long size = size_of(v), pixels = (long)v.H * v.W;
      const float* x = in[k] + i * size;
      float* y = at[plan->input[k]];
      if (x == y) continue;
      if (same(plan->input[k], plan->input_is_nhwc[k])) memcpy(y, x, size * G * 4);
      else
        for (int g = 0; g < G; g++) transpose(x + g * size, v.C, pixels, y + g * size);
    }
  }

  void copy_out(int64_t i, int G, float* const* at) const {
    for (int k = 0; k < plan->outputs; k++) {
      const Value& v = plan->value[plan->output[k]];
      long size = size_of(v), pixels = (long)v.H * v.W;
      const float* x = at[plan->output[k]];
      float* y = out[k] + i * size;
      if (x == y) continue;
      if (same(plan->output[k], plan->output_is_nhwc[k])) memcpy(y, x, size * G * 4);
      else
        for (int g = 0; g < G; g++) transpose(x + g * size, pixels, v.C, y + g * size);
    }
  }
};

void run_images(const Call& call, int64_t from, int64_t to, Arena* arena) {
  const Plan* plan = call.plan;
  for (int64_t i = from; i < to; i += plan->group) {
    int G = (int)(to - i < plan->group ? to - i : plan->group);
    float* const* at = call.places(i, G, arena);
    call.copy_in(i, G, at);
    for (int k = 0; k < plan->ops; k++) run_op(plan, plan->op[k], at, G, arena);
    call.copy_out(i, G, at);
  }
}

// Arenas wait here between calls: one per call in progress, so calls from several threads do not share any.
std::mutex g_lock;
std::vector<Arena*> g_free;

Arena* take() {
  std::lock_guard<std::mutex> hold(g_lock);
  if (g_free.empty()) return new Arena;
  Arena* a = g_free.back();
  g_free.pop_back();
  return a;
}

void give(Arena* a) {
  std::lock_guard<std::mutex> hold(g_lock);
  g_free.push_back(a);
}

int guarded(const Call& call, int64_t from, int64_t to) {
  try {
    Arena* a = take();
    try { run_images(call, from, to, a); } catch (...) { delete a; throw; }
    give(a);
    return 0;
  } catch (const std::bad_alloc&) { return 1; }
}

// A pool of sleeping workers; the caller works too.
struct Pool {
  std::mutex lock, turn;
  std::condition_variable wake, done;
  std::vector<std::thread> workers;
  void (*job)(void*, int) = nullptr;
  void* what = nullptr;
  int wanted = 0, next = 0, running = 0;
  long generation = 0;
  bool stop = false;

  void loop() {
    long seen = 0;
    std::unique_lock<std::mutex> hold(lock);
    for (;;) {
      wake.wait(hold, [&] { return stop || (generation != seen && next < wanted); });
      if (stop) return;
      seen = generation;
      while (next < wanted) {
        int i = next++;
        running++;
        hold.unlock();
        job(what, i);
        hold.lock();
        if (--running == 0 && next >= wanted) done.notify_all();
      }
    }
  }
  void run(int n, void (*f)(void*, int), void* arg) {
    std::lock_guard<std::mutex> one(turn);
    std::unique_lock<std::mutex> hold(lock);
    while ((int)workers.size() < n - 1) workers.emplace_back([this] { loop(); });
    job = f, what = arg, wanted = n, next = 0, generation++;
    wake.notify_all();
    while (next < wanted) {
      int i = next++;
      running++;
      hold.unlock();
      f(arg, i);
      hold.lock();
      running--;
    }
    done.wait(hold, [&] { return running == 0; });
  }
  ~Pool() {
    { std::lock_guard<std::mutex> hold(lock); stop = true; }
    wake.notify_all();
    for (std::thread& t : workers) t.join();
  }
};

Pool* pool_of() {
  static Pool* made = new Pool;  // never destroyed: workers may outlive main's statics
  return made;
}

struct Share { const Call& call; int64_t n; int parts; std::atomic<int> failed; };

void part(void* arg, int i) {
  Share* s = (Share*)arg;
  if (guarded(s->call, s->n * i / s->parts, s->n * (i + 1) / s->parts)) s->failed = 1;
}

}  // namespace

namespace {

// Fewer images than threads: every thread takes its rows of each convolution, and waits for the others before the next step.
struct Team {
  const Plan* plan;
  float* const* at;
  int parts;
  std::atomic<int> waiting{0}, turn{0}, failed{0};

  Team(const Plan* plan, float* const* at, int parts) : plan(plan), at(at), parts(parts) {}

  void wait() {  // steps last microseconds, so look for a while before giving the processor away
    int now = turn.load();
    if (waiting.fetch_add(1) + 1 == parts) {
      waiting.store(0);
      turn.fetch_add(1);
      return;
    }
    for (long looks = 0; turn.load(std::memory_order_acquire) == now; looks++)
      if (looks > 20000) std::this_thread::yield();
  }
};

void team_part(void* arg, int i) {
  Team* t = (Team*)arg;
  Arena* arena = nullptr;
  try { arena = take(); } catch (const std::bad_alloc&) { t->failed = 1; }
  for (int k = 0; k < t->plan->ops; k++) {
    const Op& op = t->plan->op[k];
    try {
      if (arena && op.kind == OP_CONV) conv(t->plan, op, t->at, 1, arena, i, t->parts);
      else if (arena && i == 0) run_op(t->plan, op, t->at, 1, arena);
    } catch (const std::bad_alloc&) { t->failed = 1; }  // the others still count on this thread at every step
    t->wait();
  }
  if (arena) give(arena);
}

int run_team(const Call& call, int64_t n, int threads) {
  Arena* own = nullptr;
  int failed = 0;
  try {
    own = take();
    for (int64_t i = 0; i < n && !failed; i++) {
      float* const* at = call.places(i, 1, own);
      call.copy_in(i, 1, at);
      Team team(call.plan, at, threads);
      pool_of()->run(threads, team_part, &team);
      failed = team.failed;
      call.copy_out(i, 1, at);
    }
  } catch (const std::bad_alloc&) { failed = 1; }
  if (own) give(own);
  return failed;
}

}  // namespace

// n images; in and out hold one pointer per input and output. Returns 0, or 1 when out of memory.
API int tbn_run(const Plan* plan, const float* const* in, float* const* out, int64_t n, int threads) {
  Call call(plan, in, out, n);
  if (threads <= 1 || n < 1) return guarded(call, 0, n);
  if (n < threads) return run_team(call, n, threads);
  Share s{call, n, threads, {0}};
  pool_of()->run(s.parts, part, &s);
  return s.failed;
}

API int64_t tbn_peak(int level, int kind, int64_t n) { return kLevels[level]->peak(kind, n); }

// Reads an array `times` times and returns the sum, which keeps the reading honest.
API double tbn_read(const double* x, int64_t n, int64_t times) {
  double s[32] = {};
  for (int64_t t = 0; t < times; t++)
    for (int64_t i = 0; i + 32 <= n; i += 32)
      for (int j = 0; j < 32; j++) s[j] += x[i + j];
  double sum = 0;
  for (double v : s) sum += v;
  return sum;
}

API int tbn_op_kinds() { return OP_KINDS; }
API long tbn_sizeof_op() { return sizeof(Op); }
API long tbn_sizeof_value() { return sizeof(Value); }
API long tbn_sizeof_plan() { return sizeof(Plan); }
