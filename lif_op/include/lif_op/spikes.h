// Spikes packed 32 channels to a word.
#pragma once

#include <cstdint>

#include "lif_op/types.h"

namespace lif_op {

// Packed spikes are uint32 [N, H, W, words]: bit i of word k is channel 32k + i, unused bits are 0.
inline constexpr std::int64_t kWordBits = 32;

constexpr std::int64_t WordsFor(std::int64_t channels) {
  return channels / kWordBits + (channels % kWordBits != 0);
}

struct SpikeShape {
  std::int64_t batch;
  std::int64_t channels;
  std::int64_t height;
  std::int64_t width;
};

// uint8 [N, C, H, W] to packed spikes. Bytes are added up, each shifted to its channel's bit, so
// that other bytes than 0 and 1 give what the op's definition gives. Work items are rows, counted
// over 0..batch * height; so they are below.
void PackSpikes(const SpikeShape& shape, const std::uint8_t* spikes, std::uint32_t* packed,
                Range rows);

// Packed spikes to uint8 [N, C, H, W], 0 or 1.
void UnpackSpikes(const SpikeShape& shape, const std::uint32_t* packed, std::uint8_t* spikes,
                  Range rows);

}  // namespace lif_op
