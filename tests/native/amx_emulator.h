// The matrix unit's instructions in plain C, so that level_amx.cpp can be tested on a CPU without one (-include this file).
// Arithmetic as Intel describes TDPBF16PS: products of bfloat16 pairs summed into float32, subnormal inputs taken as zero.
#pragma once
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

struct EmulatedTile { uint8_t row[16][64]; };
static thread_local EmulatedTile emulated[8];

static inline float emulated_bf16(uint16_t bits) {
  uint32_t wide = (uint32_t)bits << 16;
  if (!(wide & 0x7f800000u)) wide &= 0x80000000u;
  float value;
  memcpy(&value, &wide, 4);
  return value;
}

static inline void emulated_load(int t, const void* from, long stride) {
  for (int i = 0; i < 16; i++) memcpy(emulated[t].row[i], (const char*)from + i * stride, 64);
}

static inline void emulated_store(int t, void* to, long stride) {
  for (int i = 0; i < 16; i++) memcpy((char*)to + i * stride, emulated[t].row[i], 64);
}

static inline void emulated_dpbf16(int c, int a, int b) {
  for (int m = 0; m < 16; m++)
    for (int n = 0; n < 16; n++) {
      float sum;
      memcpy(&sum, emulated[c].row[m] + 4 * n, 4);
      for (int k = 0; k < 16; k++)
        for (int half = 0; half < 2; half++) {
          uint16_t x, y;
          memcpy(&x, emulated[a].row[m] + 4 * k + 2 * half, 2);
          memcpy(&y, emulated[b].row[k] + 4 * n + 2 * half, 2);
          sum += emulated_bf16(x) * emulated_bf16(y);
        }
      memcpy(emulated[c].row[m] + 4 * n, &sum, 4);
    }
}

static inline void emulated_dpbssd(int c, int a, int b) {
  for (int m = 0; m < 16; m++)
    for (int n = 0; n < 16; n++) {
      int32_t sum;
      memcpy(&sum, emulated[c].row[m] + 4 * n, 4);
      for (int k = 0; k < 16; k++)
        for (int part = 0; part < 4; part++)
          sum += (int8_t)emulated[a].row[m][4 * k + part] * (int8_t)emulated[b].row[k][4 * n + part];
      memcpy(emulated[c].row[m] + 4 * n, &sum, 4);
    }
}

#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbf16ps
#undef _tile_dpbssd
#undef _tile_loadconfig
#undef _tile_release
#define _tile_loadd(t, from, stride) emulated_load(t, from, stride)
#define _tile_stored(t, to, stride) emulated_store(t, to, stride)
#define _tile_zero(t) memset(&emulated[t], 0, sizeof(EmulatedTile))
#define _tile_dpbf16ps(c, a, b) emulated_dpbf16(c, a, b)
#define _tile_dpbssd(c, a, b) emulated_dpbssd(c, a, b)
#define _tile_loadconfig(config) (void)(config)
#define _tile_release() (void)0
#define TBN_EMULATED_AMX 1
