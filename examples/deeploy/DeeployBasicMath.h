/* What the C that Deeploy's generic target generates for a spiking network calls. Deeploy's own
 * kernels are not in its package; these have their names and parameters. One core. */
#pragma once

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define BEGIN_SINGLE_CORE {
#define END_SINGLE_CORE }
#define SINGLE_CORE

#define deeploy_malloc malloc
#define deeploy_free free

/* out [F, (H - P) / SP + 1, (W - Q) / SQ + 1] of in [C, H, W] and weight [F, C, P, Q]; no padding.
 */
void Conv2d_s8_s8_s32_NCHW(const int8_t *in, uint32_t C, uint32_t H, uint32_t W,
                           const int8_t *weight, uint32_t F, uint32_t P, uint32_t Q, uint32_t SP,
                           uint32_t SQ, int32_t *out, int32_t in_offset, int32_t out_offset);

/* clip((in * mul + add + half) >> log2div), channel i / pixels of every element i. */
#define REQUANT_SHIFT(bits)                                                                     \
  void RequantShift_s32_s##bits##_NCHW(const int32_t *in, int32_t size, const int32_t *mul,     \
                                       const int32_t *add, int##bits##_t *out, int32_t log2div, \
                                       int32_t pixels, int32_t in_offset, int32_t out_offset,   \
                                       int64_t low, int64_t high, int rounding)
REQUANT_SHIFT(8);
REQUANT_SHIFT(16);
REQUANT_SHIFT(32);

/* The neuron of docs/targets/deeploy.md on [channels][pixels]. */
#define QLIF(bits, reset)                                                                    \
  void QLif_s##bits##_##reset(const int##bits##_t *current, const int##bits##_t *mem,        \
                              const int32_t *decay, const int32_t *threshold, int8_t *spike, \
                              int##bits##_t *mem_out, uint32_t channels, uint32_t pixels)
QLIF(8, zero);
QLIF(8, subtract);
QLIF(8, none);
QLIF(16, zero);
QLIF(16, subtract);
QLIF(16, none);
