// Thirty-two output channels of a fused layer as the dense AVX-512 targets compute them: two
// vectors of sums, ordered so that _mm512_packs_epi32 puts them into the order of the channels.
// Included by the AVX-512 targets only; internal linkage, see planes.h.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/qconv_lif/byte_rows.h"
#include "kernels/qconv_lif/neuron_avx512.h"

namespace lif_op {
namespace {

constexpr std::int64_t kBlockChannels = 32;
constexpr std::int64_t kLanes = 16;  // of a vector of sums

// What the neurons of a block need, and where its sums start.
struct alignas(64) ChannelBlock {
  NeuronLanes neuron;
  std::int32_t bias[2][kLanes];
};

// Start of the packed memory of a layer.
struct alignas(64) PackedHeader {
  bool saturates;  // whether sums may leave the range of the current
};

std::int64_t BlocksOf(const QconvLifLayer& layer) {
  return (layer.shape.out_channels + kBlockChannels - 1) / kBlockChannels;
}

// The channel, within its block, of a lane of one of the two vectors.
constexpr std::int64_t ChannelOfLane(std::int64_t vector, std::int64_t lane) {
  return lane / 4 * 8 + vector * 4 + lane % 4;
}

std::int64_t ConstantBytes(const QconvLifLayer& layer) {
  return static_cast<std::int64_t>(sizeof(PackedHeader)) +
         BlocksOf(layer) * static_cast<std::int64_t>(sizeof(ChannelBlock));
}

const ChannelBlock* BlocksIn(const void* packed) {
  return reinterpret_cast<const ChannelBlock*>(static_cast<const std::uint8_t*>(packed) +
                                               sizeof(PackedHeader));
}

// The largest magnitude a sum of the channel can have, the bias included.
std::int64_t LargestSum(const QconvLifLayer& layer, std::int64_t channel) {
  std::int64_t largest = layer.bias[channel];
  if (largest < 0) largest = -largest;
  for (const Convolution& c : ConvolutionsOf(layer).of) {
    const std::int64_t highest = c.packed ? 1 : 255;
    for (std::int64_t i = 0; i < c.Taps(); ++i) {
      const std::int64_t weight = c.weight[channel * c.Taps() + i];
      largest += highest * (weight < 0 ? -weight : weight);
    }
  }
  return largest;
}

template <class Mem>
bool Saturates(const QconvLifLayer& layer) {
  const int f = layer.frac_bits;
  constexpr std::int64_t kHi = MembraneLimits<Mem>::kHi;
  const std::int64_t highest = f < 0 ? (kHi << -f) - (std::int64_t{1} << (-f - 1)) : kHi >> f;
  for (std::int64_t c = 0; c < layer.shape.out_channels; ++c) {
    const std::int64_t largest = LargestSum(layer, c);
    if (largest > highest || largest > INT32_MAX) return true;
  }
  return false;
}

template <class Mem>
void PackConstants(const QconvLifLayer& layer, void* packed) {
  auto* header = static_cast<PackedHeader*>(packed);
  *header = {Saturates<Mem>(layer)};
  auto* blocks = reinterpret_cast<ChannelBlock*>(header + 1);
  const std::int64_t channels = layer.shape.out_channels;
  for (std::int64_t b = 0; b < BlocksOf(layer); ++b) {
    const std::int64_t first = b * kBlockChannels;
    FillNeuronLanes<Mem>(layer.decay, layer.threshold, first, channels, &blocks[b].neuron);
    for (std::int64_t i = 0; i < kBlockChannels; ++i) {
      const std::int64_t channel = first + ChannelOfLane(i / kLanes, i % kLanes);
      blocks[b].bias[i / kLanes][i % kLanes] = channel < channels ? layer.bias[channel] : 0;
    }
  }
}

// Which channels of a block exist.
__mmask32 ExistingChannels(const QconvLifLayer& layer, std::int64_t block) {
  const std::int64_t count = layer.shape.out_channels - block * kBlockChannels;
  return count >= kBlockChannels ? 0xFFFFFFFFu : static_cast<__mmask32>((1u << count) - 1u);
}

// Where an image of x, or of the previous spikes, begins.
template <class Mem>
const void* ImageOfX(const QconvLifArgs<Mem>& args, std::int64_t image) {
  const QconvShape& s = args.layer.shape;
  const std::int64_t pixels = image * s.in_height * s.in_width;
  if (!args.layer.packed_x) {
    return static_cast<const std::uint8_t*>(args.x) + pixels * s.in_channels;
  }
  return static_cast<const std::uint32_t*>(args.x) + pixels * WordsFor(s.in_channels);
}

template <class Mem>
const void* ImageOfPrevious(const QconvLifArgs<Mem>& args, std::int64_t image) {
  const QconvShape& s = args.layer.shape;
  if (args.spike_prev == nullptr) return nullptr;
  return args.spike_prev + image * s.out_height * s.out_width * WordsFor(s.out_channels);
}

// How far ahead of the neurons their membranes are asked for; a prefetch may go anywhere.
constexpr std::int64_t kPixelsAhead = 32;

// One block of channels of neighbouring pixels.
template <class Mem>
struct Output {
  const Mem* mem;
  Mem* mem_out;
  std::uint32_t* spike;
  std::int64_t channels, words;
  std::int64_t pixels;
  __mmask32 exist;

  template <class Neuron>
  __attribute__((always_inline)) void Advance(const Neuron& neuron, const NeuronLanes& lanes,
                                              __m512i current, std::int64_t pixel) const {
    // The hardware's own reading ahead ends with every page.
    _mm_prefetch(reinterpret_cast<const char*>(mem + (pixel + kPixelsAhead) * channels),
                 _MM_HINT_T0);
    spike[pixel * words] =
        neuron(current, lanes, exist, mem + pixel * channels, mem_out + pixel * channels);
  }
};

template <class Mem>
Output<Mem> OutputOf(const QconvLifArgs<Mem>& args, std::int64_t pixel, std::int64_t pixels,
                     std::int64_t block) {
  const std::int64_t channels = args.layer.shape.out_channels;
  const std::int64_t words = WordsFor(channels);
  const std::int64_t at = pixel * channels + block * kBlockChannels;
  return {args.mem + at,
          args.mem_out + at,
          args.spike + pixel * words + block,
          channels,
          words,
          pixels,
          ExistingChannels(args.layer, block)};
}

template <class Mem>
bool Supports(const QconvLifLayer& layer) {
  return ThresholdsFit<Mem>(layer.threshold, layer.shape.out_channels);
}

}  // namespace
}  // namespace lif_op
