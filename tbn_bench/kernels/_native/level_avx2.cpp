// AVX2 and FMA.
#define LANES 8
#define BLOCK 6
#define ROWS 4
#define VECTORS 3
#include "fma.inc"
#include "lut.inc"

static int available() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
extern "C" {
extern const Level tbn_level_avx2 = {"avx2", available, prepare_lut, conv_lut, peak};
}
