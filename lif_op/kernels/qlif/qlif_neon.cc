// The integer neuron, eight at a time in 16-bit lanes for both membrane types: nothing needs more
// once the accumulator has been clamped, but the product with the decay, and saturating addition is
// the clamp of a 16-bit membrane.
#include <arm_neon.h>

#include "kernels/planes.h"
#include "kernels/qlif/qlif_contract.h"

namespace lif_op::neon {
namespace {

constexpr std::int64_t kLanes = 8;

int16x8_t LoadMem(const std::int16_t* mem) { return vld1q_s16(mem); }
int16x8_t LoadMem(const std::int8_t* mem) { return vmovl_s8(vld1_s8(mem)); }
void StoreMem(int16x8_t lanes, std::int16_t* mem) { vst1q_s16(mem, lanes); }
void StoreMem(int16x8_t lanes, std::int8_t* mem) { vst1_s8(mem, vqmovn_s16(lanes)); }

template <class Mem>
int16x8_t Clamp(int16x8_t lanes) {
  if constexpr (sizeof(Mem) == 2) return lanes;  // the saturating operations have done it
  const int16x8_t hi = vdupq_n_s16(MembraneLimits<Mem>::kHi);
  const int16x8_t lo = vdupq_n_s16(MembraneLimits<Mem>::kLo);
  return vmaxq_s16(vminq_s16(lanes, hi), lo);
}

// Shifts and bounds of the input current, the same for all neurons of a call.
template <class Mem>
class Current {
 public:
  explicit Current(int frac_bits) : rounds_(frac_bits < 0) {
    const int down = rounds_ ? -frac_bits : 1;
    const int up = rounds_ ? 0 : frac_bits;
    const std::int32_t span = (MembraneLimits<Mem>::kHi + 1) >> up;
    lo_ = vdupq_n_s32(-span);
    hi_ = vdupq_n_s32(span - 1);
    down_ = vdupq_n_s32(-down);  // negative shifts go to the right
    half_ = vdupq_n_s32(1 - down);
    up_ = vdupq_n_s16(static_cast<std::int16_t>(up));
  }

  // Of eight accumulators.
  int16x8_t operator()(const std::int32_t* acc) const {
    const int16x4_t first = vmovn_s32(Four(acc));
    return vshlq_s16(vmovn_high_s32(first, Four(acc + 4)), up_);
  }

 private:
  int32x4_t Four(const std::int32_t* acc) const {
    int32x4_t value = vld1q_s32(acc);
    if (rounds_) {
      // floor((a + 2^(k-1)) / 2^k) without the sum, which could overflow.
      const int32x4_t half = vandq_s32(vshlq_s32(value, half_), vdupq_n_s32(1));
      value = vaddq_s32(vshlq_s32(value, down_), half);
    }
    return vmaxq_s32(vminq_s32(value, hi_), lo_);
  }

  bool rounds_;
  int32x4_t lo_;
  int32x4_t hi_;
  int32x4_t down_;
  int32x4_t half_;
  int16x8_t up_;
};

// trunc_toward_zero(mem * decay / 256).
int16x8_t Decay(int16x8_t mem, std::uint16_t decay) {
  const uint16x8_t absolute = vreinterpretq_u16_s16(vabsq_s16(mem));
  const uint32x4_t low = vmull_n_u16(vget_low_u16(absolute), decay);
  const uint32x4_t high = vmull_high_n_u16(absolute, decay);
  const int16x8_t magnitude = vreinterpretq_s16_u16(vshrn_high_n_u32(vshrn_n_u32(low, 8), high, 8));
  const int16x8_t sign = vshrq_n_s16(mem, 15);
  return vsubq_s16(veorq_s16(magnitude, sign), sign);
}

template <Reset kReset, class Mem>
void Run(const QlifArgs<Mem>& args, Range range) {
  const Current<Mem> current(args.frac_bits);
  ForEachPlane(
      args.layout, range, [&](std::int64_t channel, std::int64_t offset, std::int64_t count) {
        const auto decay = static_cast<std::uint16_t>(args.decay[channel]);
        const std::int32_t threshold = args.threshold[channel];
        // A threshold below all membranes does not fit the lanes.
        if (threshold < MembraneLimits<Mem>::kLo) {
          return QlifPlane<kReset>(args, channel, offset, count);
        }
        const int16x8_t threshold_v =
            vdupq_n_s16(static_cast<std::int16_t>(Min(threshold, MembraneLimits<Mem>::kHi)));
        const std::int64_t end = offset + count;
        std::int64_t i = offset;
        for (; i + kLanes <= end; i += kLanes) {
          const int16x8_t decayed = Decay(LoadMem(args.mem + i), decay);
          const int16x8_t u = Clamp<Mem>(vqaddq_s16(decayed, current(args.acc + i)));
          const uint16x8_t fires = vcgtq_s16(u, threshold_v);
          const int16x8_t fires_mask = vreinterpretq_s16_u16(fires);
          int16x8_t after = u;
          if constexpr (kReset == Reset::kZero) {
            after = vbicq_s16(u, fires_mask);
          } else if constexpr (kReset == Reset::kSubtract) {
            after = Clamp<Mem>(vqsubq_s16(u, vandq_s16(threshold_v, fires_mask)));
          }
          vst1_u8(args.spike + i, vshr_n_u8(vmovn_u16(fires), 7));
          StoreMem(after, args.mem_out + i);
        }
        QlifPlane<kReset>(args, channel, i, end - i);
      });
}

template <class Mem>
void Dispatch(const QlifArgs<Mem>& args, Range range) {
  switch (args.reset) {
    case Reset::kZero:
      return Run<Reset::kZero>(args, range);
    case Reset::kSubtract:
      return Run<Reset::kSubtract>(args, range);
    case Reset::kNone:
      return Run<Reset::kNone>(args, range);
  }
}

}  // namespace

void Qlif(const QlifArgs<std::int16_t>& args, Range range) { Dispatch(args, range); }
void Qlif(const QlifArgs<std::int8_t>& args, Range range) { Dispatch(args, range); }

}  // namespace lif_op::neon
