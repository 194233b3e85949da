// The vector operations of the fused layer by look-up on Arm: one tbl looks up 16 pixels. `Counts`
// are the operations on words of counts, which differ from target to target. Internal linkage, see
// planes.h.
#pragma once

#include <arm_neon.h>

#include "kernels/qconv_lif/nibble_layer.h"

namespace lif_op {
namespace {

template <class Counts>
struct NibbleNeon {
  using Words = Counts;

  // Bytes of neighbouring pixels.
  using Bytes = uint8x16_t;
  static constexpr int kBytes = 16;

  static constexpr std::int64_t kMacsPerUs = 50000;  // not measured

  static Bytes LoadBytes(const std::uint8_t* bytes) { return vld1q_u8(bytes); }
  static Bytes LoadTable(const std::uint8_t* table) { return vld1q_u8(table); }
  static Bytes LookUp(Bytes table, const std::uint8_t* nibbles) {
    return vqtbl1q_u8(table, vld1q_u8(nibbles));
  }
  static Bytes AddBytes(Bytes a, Bytes b) { return vaddq_u8(a, b); }
  static Bytes OrBytes(Bytes a, Bytes b) { return vorrq_u8(a, b); }
  static bool AnyBit(Bytes bytes) { return vmaxvq_u8(bytes) != 0; }

  // 16-bit sums of the bytes, modulo 2^16.
  struct Sum {
    uint16x8_t low;
    uint16x8_t high;
  };

  static void Widen(Bytes bytes, Sum& sum) {
    sum.low = vaddw_u8(sum.low, vget_low_u8(bytes));
    sum.high = vaddw_high_u8(sum.high, bytes);
  }

  // 16-bit numbers of neighbouring pixels, or channels.
  using Lanes = int16x8_t;
  static constexpr int kLanes = 8;

  static void InOrder(const Sum& sum, Lanes (&lanes)[2]) {
    lanes[0] = vreinterpretq_s16_u16(sum.low);
    lanes[1] = vreinterpretq_s16_u16(sum.high);
  }

  static Lanes Load(const std::int16_t* lanes) { return vld1q_s16(lanes); }
  static Lanes Load(const std::int8_t* lanes) { return vmovl_s8(vld1_s8(lanes)); }
  static void Store(Lanes lanes, std::int16_t* out) { vst1q_s16(out, lanes); }
  static void Store(Lanes lanes, std::int8_t* out) { vst1_s8(out, vqmovn_s16(lanes)); }

  static Lanes Splat(std::int32_t value) { return vdupq_n_s16(static_cast<std::int16_t>(value)); }
  static Lanes And(Lanes a, Lanes b) { return vandq_s16(a, b); }
  static Lanes AndNot(Lanes a, Lanes b) { return vbicq_s16(a, b); }
  static Lanes Add(Lanes a, Lanes b) { return vaddq_s16(a, b); }
  static Lanes AddSaturating(Lanes a, Lanes b) { return vqaddq_s16(a, b); }
  static Lanes SubtractSaturating(Lanes a, Lanes b) { return vqsubq_s16(a, b); }
  static Lanes AtMost(Lanes a, Lanes b) { return vminq_s16(a, b); }
  static Lanes AtLeast(Lanes a, Lanes b) { return vmaxq_s16(a, b); }
  static Lanes Above(Lanes a, Lanes b) { return vreinterpretq_s16_u16(vcgtq_s16(a, b)); }
  static Lanes ShiftUp(Lanes a, int by) { return vshlq_s16(a, Splat(by)); }
  static Lanes ShiftDown(Lanes a, int by) { return vshlq_s16(a, Splat(-by)); }

  using Decay = uint16x8_t;

  static Decay DecayOf(Lanes decay) { return vreinterpretq_u16_s16(decay); }

  // trunc_toward_zero(mem * decay / 256).
  static Lanes Decayed(Lanes mem, Decay decay) {
    const uint16x8_t absolute = vreinterpretq_u16_s16(vabsq_s16(mem));
    const uint32x4_t low = vmull_u16(vget_low_u16(absolute), vget_low_u16(decay));
    const uint32x4_t high = vmull_high_u16(absolute, decay);
    const int16x8_t magnitude =
        vreinterpretq_s16_u16(vshrn_high_n_u32(vshrn_n_u32(low, 8), high, 8));
    const int16x8_t sign = vshrq_n_s16(mem, 15);
    return vsubq_s16(veorq_s16(magnitude, sign), sign);
  }

  // Bit c is set where lane c is.
  static std::uint32_t Word(const Lanes (&fires)[4]) {
    const uint8x16_t bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201u));
    const uint8x16_t low = vandq_u8(LowBytes(fires[0], fires[1]), bit);
    const uint8x16_t high = vandq_u8(LowBytes(fires[2], fires[3]), bit);
    const uint8x16_t pairs = vpaddq_u8(low, high);
    const uint8x16_t quads = vpaddq_u8(pairs, pairs);
    return vgetq_lane_u32(vreinterpretq_u32_u8(vpaddq_u8(quads, quads)), 0);
  }

  // Spreads the nibbles of 32 words over eight planes, and adds to `occupancy` which are not 0.
  static void Spread(const std::uint32_t* words, std::int64_t plane, std::uint8_t* out,
                     std::uint8_t* occupancy) {
    for (int half = 0; half < 32; half += kBytes) {
      const uint8x16x4_t bytes = vld4q_u8(reinterpret_cast<const std::uint8_t*>(words + half));
      uint8x16_t seen = vld1q_u8(occupancy + half);
      for (int i = 0; i < 4; ++i) {
        seen = vorrq_u8(seen, bytes.val[i]);
        vst1q_u8(out + 2 * i * plane + half, vandq_u8(bytes.val[i], vdupq_n_u8(0x0F)));
        vst1q_u8(out + (2 * i + 1) * plane + half, vshrq_n_u8(bytes.val[i], 4));
      }
      vst1q_u8(occupancy + half, seen);
    }
  }

  // Transposes eight by eight numbers.
  static void Transpose(const std::int16_t* in, std::int64_t in_row, std::int16_t* out,
                        std::int64_t out_row) {
    int32x4_t pairs[8];
    for (int i = 0; i < 8; i += 2) {
      const int16x8_t first = vld1q_s16(in + i * in_row);
      const int16x8_t second = vld1q_s16(in + (i + 1) * in_row);
      pairs[i] = vreinterpretq_s32_s16(vtrn1q_s16(first, second));
      pairs[i + 1] = vreinterpretq_s32_s16(vtrn2q_s16(first, second));
    }
    int64x2_t quads[8];
    for (int i = 0; i < 8; i += 4) {
      for (int j = i; j < i + 2; ++j) {
        quads[j] = vreinterpretq_s64_s32(vtrn1q_s32(pairs[j], pairs[j + 2]));
        quads[j + 2] = vreinterpretq_s64_s32(vtrn2q_s32(pairs[j], pairs[j + 2]));
      }
    }
    for (int i = 0; i < 4; ++i) {
      vst1q_s16(out + i * out_row, vreinterpretq_s16_s64(vtrn1q_s64(quads[i], quads[i + 4])));
      vst1q_s16(out + (i + 4) * out_row, vreinterpretq_s16_s64(vtrn2q_s64(quads[i], quads[i + 4])));
    }
  }

 private:
  static uint8x16_t LowBytes(Lanes a, Lanes b) {
    return vuzp1q_u8(vreinterpretq_u8_s16(a), vreinterpretq_u8_s16(b));
  }
};

}  // namespace
}  // namespace lif_op
