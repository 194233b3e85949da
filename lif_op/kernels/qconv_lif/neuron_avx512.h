// The neuron at the end of a fused layer: thirty-two channels of one pixel. Included by the AVX-512
// targets only; internal linkage, see planes.h.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/qlif/lanes_avx512.h"

namespace lif_op {
namespace {

// Parameters of thirty-two channels as the lanes want them. Channels beyond the last of a layer get
// decay 0 and the highest threshold, so that they never fire.
struct alignas(64) NeuronLanes {
  std::int16_t decay_high[32];  // decay << 8, modulo 2^16
  std::int16_t threshold[32];   // at most the highest membrane
  std::uint32_t keeps_all;      // bit of each channel whose decay is kDecayOne
};

// Whether the thresholds fit the lanes. One below all membranes, with which a neuron always fires,
// does not.
template <class Mem>
bool ThresholdsFit(const std::int32_t* threshold, std::int64_t channels) {
  for (std::int64_t c = 0; c < channels; ++c) {
    if (threshold[c] < MembraneLimits<Mem>::kLo) return false;
  }
  return true;
}

// Lanes of the channels first..first + 31, of which those below `channels` exist.
template <class Mem>
void FillNeuronLanes(const std::int32_t* decay, const std::int32_t* threshold, std::int64_t first,
                     std::int64_t channels, NeuronLanes* lanes) {
  constexpr std::int32_t kHi = MembraneLimits<Mem>::kHi;
  lanes->keeps_all = 0;
  for (std::int64_t i = 0; i < 32; ++i) {
    const bool exists = first + i < channels;
    const std::int32_t d = exists ? decay[first + i] : 0;
    const std::int32_t limit = exists ? threshold[first + i] : kHi;
    lanes->decay_high[i] = static_cast<std::int16_t>((d & 0xFF) << 8);
    lanes->threshold[i] = static_cast<std::int16_t>(limit < kHi ? limit : kHi);
    if (d == kDecayOne) lanes->keeps_all |= 1u << i;
  }
}

template <class Mem, Reset kReset>
class Neuron32 {
 public:
  // `saturates`: whether an accumulator can leave the range of the current. Where the sums are
  // known to stay inside, the clamp is left out.
  Neuron32(int frac_bits, bool saturates) : shifts_(frac_bits), clamps_(saturates) {
    const std::int32_t span = shifts_.template Span<Mem>();
    lo_ = _mm512_set1_epi16(static_cast<short>(-span));
    hi_ = _mm512_set1_epi16(static_cast<short>(span - 1));
  }

  // Current of two vectors of accumulators whose lanes interleave the way _mm512_packs_epi32 takes
  // them: within each group of eight channels, the first four in `even`, the last four in `odd`.
  __m512i CurrentOfPacked(__m512i even, __m512i odd) const {
    return Bounded(_mm512_packs_epi32(shifts_.Down(even), shifts_.Down(odd)));
  }

  // Current of sums in channel order that fit 16 bits and need no rounding.
  __m512i CurrentOfNarrow(__m512i acc) const { return Bounded(acc); }

  // Advances the membranes of the channels in `exist` and returns which neurons fire.
  __mmask32 operator()(__m512i current, const NeuronLanes& lanes, __mmask32 exist, const Mem* mem,
                       Mem* mem_out) const {
    const __m512i before = LoadMembranes(exist, mem);
    const __m512i threshold = _mm512_load_si512(lanes.threshold);
    const __m512i u = ClampLanes<Mem>(_mm512_adds_epi16(Decayed(before, lanes), current));
    const __mmask32 fires = _mm512_cmpgt_epi16_mask(u, threshold);
    StoreMembranes(exist, ResetLanes<Mem, kReset>(u, fires, threshold), mem_out);
    return fires;
  }

 private:
  __m512i Bounded(__m512i current) const {
    if (clamps_) current = _mm512_max_epi16(_mm512_min_epi16(current, hi_), lo_);
    return shifts_.shifts_up() ? shifts_.Up(current) : current;
  }

  static __m512i Decayed(__m512i mem, const NeuronLanes& lanes) {
    const __m512i decayed = DecayLanes(mem, _mm512_load_si512(lanes.decay_high));
    if (__builtin_expect(lanes.keeps_all == 0, 1)) return decayed;
    return _mm512_mask_mov_epi16(decayed, lanes.keeps_all, mem);
  }

  CurrentShifts shifts_;
  bool clamps_;
  __m512i lo_;
  __m512i hi_;
};

}  // namespace
}  // namespace lif_op
