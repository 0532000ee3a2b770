// The inside of libtbn_bench: one convolution for every layer, one implementation of it per instruction set ("level").
//
// A weight is R rows of K = kh * kw * C signs (tap-major: k = (ky * kw + kx) * C + c), shared by p copies of output channels:
//   out[pixel][i * R + r] = act(scale[i * R + r] * sum_k w[r][k] * x[...] + shift[i * R + r] + residual[pixel][i * R + r])
// Activations are NHWC float32. A linear layer is a 1 x 1 convolution over G x 1 x 1 pixels.
#pragma once
#include <stdint.h>

enum WeightKind { KIND_SIGNS = 0, KIND_FLOAT = 1, KIND_DEPTHWISE = 2 };  // the last: float32, each of R = C channels by a kernel of its own

struct Weights {       // made by prepare(); owned by the plan
  int kind, R, C, kh, kw;
  long K;              // kh * kw * C
  int copies;          // of its rows, in a vector of 16 rows: 2 for 8 rows, 1 where R does not divide 8
  void* data;          // level's own layout
  long bytes;          // of data
};

// Scratch memory by what it holds.
enum Slot {
  SLOT_INPUT,    // of a convolution: its input as the level lays it out, or tables of sums of it
  SLOT_MAP,      // position -> output pixel, or -1
  SLOT_SUMS,
  SLOT_PLANES,   // of lut.inc: the input, four channels at a time
  SLOT_TAPS,     // where each tap of the kernel begins
  SLOT_ENTRIES,  // of lut.inc: where the table entries of each row begin
  SLOT_UNITS,    // of 14-bit activations: inverse and step of each image, or of each pixel
  SLOT_STEPS,    // of 14-bit activations: the step of each position
  SLOT_VALUES,   // of a program: all values of the images that go through together
  SLOT_PLACES,   // of a program: the address of each value
  SLOTS,
  // attention runs after a convolution or before it, and shares its memory
  SLOT_KEY = SLOT_INPUT,
  SLOT_VALUE = SLOT_MAP,
  SLOT_QUERY = SLOT_SUMS,
  SLOT_SCORES = SLOT_PLANES,
  SLOT_ROWS = SLOT_TAPS,
};

struct Scratch {       // per thread; grows, never shrinks
  void* (*get)(Scratch* self, Slot slot, long bytes);
};

struct Conv {
  const float* in;     // (G, H, W, in_stride channels), already offset to this group's first channel
  float* out;          // (G, Ho, Wo, out_stride channels), likewise
  const float* residual;  // laid out as out, or NULL
  const float *scale, *shift;  // (p * R)
  const Weights* weights;
  int G, H, W, in_stride, Ho, Wo, out_stride, p;
  int sh, sw, ph, pw, dh, dw;
  int relu, planes;    // planes: bfloat16 terms per activation in the AMX level, 3 = float32-exact; or PLANES_A14
  Scratch* scratch;
};

struct Attention {
  const float* qkv;    // (T, 3, heads, depth)
  float* out;          // (T, heads, depth)
  long T, heads, depth;
  float scale;
  bool causal;         // a token sees itself and the tokens before it
  Scratch* scratch;
};

// Training: batch norm over p copies of R channels (norm.inc). Rows are pixels; the channels of a row lie side by side.
struct Norm {
  long M;                // rows
  int R, p;              // t has R channels, all others p R
  int half, relu;        // half: values are bfloat16, else float32
  int mixed, unused;     // mixed > 1, and then p = 1: t is Sylvester's matrix times `mixed` parts of its channels
  const void* t;         // (M, R)
  const void* parts;     // (M, R): what moments mixes t from, or NULL where it is mixed; full is mixed back
  const void* residual;  // (M, p R), or NULL
  void* out;             // (M, p R)
  uint16_t* passes;      // (M p R / 16), or NULL without ReLU: bit l is whether it lets the gradient of value 16 i + l pass
  const float *a, *b;    // (p R): out = act(a t + b + residual)
  // backward
  const void* gradient;      // of out
  void* masked;              // (M, p R), or NULL: the gradient where ReLU let the value pass
  float* total;              // (M, R), or NULL: sum over the copies of a times that
  const float* center;       // (max(R, 16)): of t
  double *sums, *products;   // (p R): of the masked gradient, and of it times (t - center)
  const float *k0, *k1, *k2; // (p R)
  void* full;                // (M, p R): k2 times the masked gradient + k1 t + k0
  void* small;               // (M, R): total + k1 t + k0
};

// Training: the weight gradient of a convolution of `images` images.
struct WeightGradient {
  const float* x;    // (images, H, W, in_stride channels), offset to the first of C
  const float* g;    // (images, Ho, Wo, out_stride channels), offset to the first of R
  float* gradient;   // (R, kh, kw, C), added to
  long images;
  int H, W, C, in_stride, Ho, Wo, R, out_stride, kh, kw, stride, pad;
};

// Training: a convolution of one image in groups of few channels (groups.inc). x has zeros around it, so that every tap reads memory.
struct GroupConv {
  const float* x;        // pixels of in_pixel channels; the first input of the first output pixel
  const float* weights;  // (rows / 16, taps, C, 16): 16 output channels side by side
  float* y;              // the first output pixel
  const long* offsets;   // (taps): from an output pixel's first input to a tap's, in floats
  long in_row, in_column, out_row, out_column;  // floats between neighbouring output pixels
  int taps, side;        // side: whether taps come in threes that are neighbours, as output pixels are
  int C, R, rows;        // inputs and outputs of a group, outputs of all groups
  int Ho, Wo;
};

// Training: its weight gradient, added to that of other images.
struct GroupGradient {
  const float *x, *g;    // x as in GroupConv; g: the first output pixel
  float* gradient;       // (groups R, taps, C)
  const long* offsets;
  long pixel, in_row, in_column, out_row, out_column;  // pixel: floats between neighbouring inputs
  int taps, side, C, R, channels;                      // channels: inputs of all groups
  int Ho, Wo;
};

enum { NORM_ROWS = 4096, NORM_CHANNELS = 4096 };  // the most that norm.inc takes

struct NormKernels {
  void (*moments)(const Norm* n, double* mean, double* variance);  // of t, (R)
  void (*forward)(const Norm* n);
  void (*sums)(const Norm* n);
  void (*full)(const Norm* n);
  void (*small)(const Norm* n, const float* k1, const float* k0);
  void (*mix)(float* x, long rows, long channels, int p);  // x: (rows, channels), mixed in place from p parts
};

struct Level {
  const char* name;
  int (*available)();
  int (*takes)(int planes);  // whether it computes with this number of planes: Conv.planes
  int (*prepare)(Weights* w, const uint8_t* bits, const float* dense);  // bits: flat LSB-first in (R, C, kh, kw) order
  void (*conv)(const Conv* c);
  void (*gelu)(const float* x, float* y, long n);
  void (*attention)(const Attention* a);
  long (*peak)(int kind, long n);  // runs n steps of pure arithmetic and returns their multiply-adds, or 0; see PEAK_*
  const NormKernels* norm;
  void (*weight_gradient)(const WeightGradient* w);
  void (*group_conv)(const GroupConv* c);  // NULL, as is the next, where 16 lanes are no register
  void (*group_gradient)(const GroupGradient* c);
};

enum { PLANES_A14 = 14 };  // activations rounded to 14 bits

enum Peak { PEAK_FMA = 0, PEAK_LOOKUP = 1, PEAK_MATRIX = 2, PEAK_MATRIX_A14 = 3 };  // of the matrix unit: activations in float32, in 14 bits

extern "C" {
extern const NormKernels tbn_norm_avx512;
void tbn_weight_gradient_avx512(const WeightGradient* w);
void tbn_group_conv_avx512(const GroupConv* c);
void tbn_group_gradient_avx512(const GroupGradient* c);
extern const Level tbn_level_generic;
#if defined(__x86_64__)
extern const Level tbn_level_avx2;
extern const Level tbn_level_avx512;
extern const Level tbn_level_amx;
void tbn_conv_a14(const Conv* c);  // signs only, laid out for level avx512
int tbn_a14_available();
#endif
}

// Level.takes of the levels that compute in float32 alone.
static inline int takes_float32(int planes) { return planes == 3; }

// Whether output pixels are input pixels, one by one. A part of an image with a margin below has more of the former.
static inline int on_their_own(const Conv* c) {
  return c->weights->K == c->weights->C && c->sh == 1 && c->sw == 1 && !c->ph && !c->pw && c->Ho == c->H && c->Wo == c->W;
}

// A layer of few rows as one of 16 rows and fewer copies: 4 rows and 16 copies are 16 rows and 4 copies. A layer whose copies do not
// allow it stays as it is.
struct SixteenRows {
  Weights weights;
  Conv conv;

  explicit SixteenRows(const Conv* c) : weights(*c->weights), conv(*c) {
    if (c->p % weights.copies) return;
    weights.R *= weights.copies;
    conv.p /= weights.copies;
    conv.weights = &weights;
  }
  SixteenRows(const SixteenRows&) = delete;
  SixteenRows& operator=(const SixteenRows&) = delete;
};

static inline int sign_bit(const uint8_t* bits, long n) { return (bits[n >> 3] >> (n & 7)) & 1; }

// The layout of the padded input: a tap of the kernel is an offset that is added to a position, for any stride and dilation.
// Stride 1 shares the padding between neighbouring rows and images; larger strides split the input into sh * sw phases.
struct Flat {
  int pitch, image_rows;   // positions per row, rows per image
  int phases_x, phases_y;
  long positions, phase_size;  // outputs to compute (valid and not), positions per phase including what taps may reach
};

static inline Flat flat_of(const Conv* c) {
  const Weights* w = c->weights;
  Flat f;
  f.phases_x = c->sw;
  f.phases_y = c->sh;
  if (c->sw == 1 && c->sh == 1) {
    f.pitch = c->W + c->pw;
    f.image_rows = c->H + c->ph;
    int need = c->Wo;  // a kernel wider than its padding never needs more columns than these
    if (f.pitch < need) f.pitch = need;
    if (f.image_rows < c->Ho) f.image_rows = c->Ho;
  } else {
    f.pitch = (c->W + 2 * c->pw + c->sw - 1) / c->sw;
    f.image_rows = (c->H + 2 * c->ph + c->sh - 1) / c->sh;
    int columns = c->Wo + (w->kw - 1) * c->dw / c->sw, rows = c->Ho + (w->kh - 1) * c->dh / c->sh;  // parts of an image may lack their lower margin
    if (f.pitch < columns) f.pitch = columns;
    if (f.image_rows < rows) f.image_rows = rows;
  }
  long reach = (long)((w->kh - 1) * c->dh / c->sh) * f.pitch + (w->kw - 1) * c->dw / c->sw;
  f.positions = ((long)(c->G - 1) * f.image_rows + c->Ho - 1) * f.pitch + c->Wo;
  f.phase_size = (long)c->G * f.image_rows * f.pitch + reach + 96;
  return f;
}

static inline long tap_offset(const Conv* c, const Flat* f, int ky, int kx) {  // in positions
  int y = ky * c->dh, x = kx * c->dw;
  long phase = (long)(y % c->sh) * f->phases_x + x % c->sw;
  return phase * f->phase_size + (long)(y / c->sh) * f->pitch + x / c->sw;
}

static inline long pixel_position(const Conv* c, const Flat* f, int g, int y, int x) {  // of input pixel (y, x) of image g
  int Y = y + c->ph, X = x + c->pw;
  long phase = (long)(Y % c->sh) * f->phases_x + X % c->sw;
  return phase * f->phase_size + ((long)g * f->image_rows + Y / c->sh) * f->pitch + X / c->sw;
}

static inline void output_map(const Conv* c, const Flat* f, int32_t* map, long count) {  // position -> output pixel, or -1
  for (long i = 0; i < count; i++) map[i] = -1;
  for (int g = 0; g < c->G; g++)
    for (int y = 0; y < c->Ho; y++)
      for (int x = 0; x < c->Wo; x++)
        map[((long)g * f->image_rows + y) * f->pitch + x] = (int32_t)(((long)g * c->Ho + y) * c->Wo + x);
}
