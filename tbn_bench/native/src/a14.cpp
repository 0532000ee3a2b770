// AVX-512 VNNI: activations rounded to 14 bits, one step per image (per pixel where pixels are on their own), integer sums exact.
#include <immintrin.h>
#define LANES 16
#define BLOCK 12
#include "fma.inc"
#define A14 1
#include "lookup512.inc"

extern "C" void tbn_conv_a14(const Conv* c) { conv_lookup(c); }
extern "C" int tbn_a14_available() { return __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw"); }
