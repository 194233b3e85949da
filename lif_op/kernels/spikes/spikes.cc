// Packing and unpacking by blocks of pixels: the inner loops run over pixels of one channel, which
// compilers turn into vectors.
#include "lif_op/spikes.h"

#include <algorithm>

namespace lif_op {
namespace {

constexpr std::int64_t kBlock = 64;

// Calls visit(first channel of a word, its number of channels, offset of the first pixel in a
// channel's plane counted from the tensor's start, offset of that pixel's word, pixels) for every
// word of every block of pixels.
template <class Visit>
void ForEachBlock(const SpikeShape& s, Range rows, Visit visit) {
  const std::int64_t plane = s.height * s.width;
  const std::int64_t words = WordsFor(s.channels);
  for (std::int64_t row = rows.begin; row < rows.end; ++row) {
    const std::int64_t image = row / s.height;
    for (std::int64_t column = 0; column < s.width; column += kBlock) {
      const std::int64_t pixel = row % s.height * s.width + column;
      const std::int64_t pixels = std::min(kBlock, s.width - column);
      for (std::int64_t word = 0; word < words; ++word) {
        const std::int64_t channel = word * kWordBits;
        visit(std::min(kWordBits, s.channels - channel),
              (image * s.channels + channel) * plane + pixel,
              (image * plane + pixel) * words + word, pixels);
      }
    }
  }
}

}  // namespace

void PackSpikes(const SpikeShape& shape, const std::uint8_t* spikes, std::uint32_t* packed,
                Range rows) {
  const std::int64_t plane = shape.height * shape.width;
  const std::int64_t words = WordsFor(shape.channels);
  ForEachBlock(shape, rows,
               [=](std::int64_t channels, std::int64_t from, std::int64_t to, std::int64_t pixels) {
                 std::uint32_t block[kBlock] = {};
                 for (std::int64_t bit = 0; bit < channels; ++bit) {
                   const std::uint8_t* bytes = spikes + from + bit * plane;
                   for (std::int64_t i = 0; i < pixels; ++i) {
                     block[i] += std::uint32_t{bytes[i]} << bit;
                   }
                 }
                 for (std::int64_t i = 0; i < pixels; ++i) packed[to + i * words] = block[i];
               });
}

void UnpackSpikes(const SpikeShape& shape, const std::uint32_t* packed, std::uint8_t* spikes,
                  Range rows) {
  const std::int64_t plane = shape.height * shape.width;
  const std::int64_t words = WordsFor(shape.channels);
  ForEachBlock(shape, rows,
               [=](std::int64_t channels, std::int64_t to, std::int64_t from, std::int64_t pixels) {
                 std::uint32_t block[kBlock];
                 for (std::int64_t i = 0; i < pixels; ++i) block[i] = packed[from + i * words];
                 for (std::int64_t bit = 0; bit < channels; ++bit) {
                   std::uint8_t* bytes = spikes + to + bit * plane;
                   for (std::int64_t i = 0; i < pixels; ++i) {
                     bytes[i] = static_cast<std::uint8_t>(block[i] >> bit & 1u);
                   }
                 }
               });
}

}  // namespace lif_op
