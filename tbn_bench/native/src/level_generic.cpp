// Any machine: the compiler's baseline instruction set (NEON on aarch64).
#define LANES 4
#define SUMS 12
#define PIXELS 3
#define ROWS 4
#define VECTORS 3
#include "dense.inc"
#include "lut.inc"
#include "transformer.inc"
#include "norm.inc"
#include "wgrad.inc"

static int available() { return 1; }
extern "C" {
extern const Level tbn_level_generic = {"generic", available, takes_float32, prepare_lut, conv_lut, gelu, attention, peak, &norm_kernels, weight_gradient, nullptr, nullptr};
}
