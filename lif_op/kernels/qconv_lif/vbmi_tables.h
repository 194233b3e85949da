// What the fused layer by look-up in 512-bit registers prepares once per layer.
//
// A nibble of a spike word says which of four neighbouring channels fired, and what those four add
// to an output channel through one position of the kernel is one of sixteen numbers. The spikes of
// a pixel at one position have two nibbles in each of the four bytes of a word: a *step* is the low
// or the high ones, and the four tables for them fill one register. One vpermb then looks up the
// four nibbles of sixteen pixels, and one vpdpbusd adds the four numbers of each pixel: 256
// multiply-accumulates of spikes with weights.
//
// Tables hold sums less their smallest, which are unsigned; the smallest sums go into the number a
// sum starts from. Where the largest of them exceeds a byte, what is left is in a second and third
// table for the same step, an *extra*. Weights of 7 bits never need one.
//
// Everything here has internal linkage, see planes.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/planes.h"
#include "kernels/qconv_lif/neuron_avx512.h"
#include "lif_op/qconv_lif.h"

namespace lif_op {
namespace {

constexpr std::int64_t kStepBytes = 64;
// Steps whose indices are held in registers at the same time: those of a 3x3 kernel on one word.
constexpr std::int64_t kChunkSteps = 18;
// Output channels that are computed together.
constexpr std::int64_t kGroup = 8;
constexpr std::int64_t kGroupStepBytes = kGroup * kStepBytes;
// Where a block has few spikes in reach, the weights of each are added instead, in 16 bits. Written
// for kernels of this width.
constexpr std::int64_t kEventWidth = 3;
constexpr std::int32_t kByteMax = 255;

constexpr std::int64_t RoundUp(std::int64_t value, std::int64_t unit) {
  return (value + unit - 1) / unit * unit;
}

// One of the two inputs of a layer. Its steps are in the order of kernel row, kernel column, word,
// low or high nibbles.
struct Input {
  const std::int8_t* weight;  // [out_channels, channels, kernel_height, kernel_width]
  std::int64_t channels;
  std::int64_t words;
  std::int64_t kernel_height, kernel_width;
  std::int64_t pad_top, pad_left;
  std::int64_t height, width;

  std::int64_t Steps() const { return kernel_height * kernel_width * words * 2; }
  // Weights for thirty-two output channels, of all channels that have a bit.
  std::int64_t EventWeights() const {
    return kernel_height * kernel_width * words * kWordBits * kWordBits;
  }
};

struct Inputs {
  Input input[2];  // x, previous spikes; the second has no steps where a layer has none

  std::int64_t Steps() const { return input[0].Steps() + input[1].Steps(); }
  std::int64_t EventWeights() const { return input[0].EventWeights() + input[1].EventWeights(); }
};

inline Inputs InputsOf(const QconvLifLayer& layer) {
  const QconvShape& s = layer.shape;
  Inputs inputs{};
  inputs.input[0] = {layer.weight,    s.in_channels,  WordsFor(s.in_channels),
                     s.kernel_height, s.kernel_width, s.pad_top,
                     s.pad_left,      s.in_height,    s.in_width};
  if (layer.weight_rec != nullptr) {
    inputs.input[1] = {
        layer.weight_rec,           s.out_channels,         WordsFor(s.out_channels),
        layer.rec_kernel_height,    layer.rec_kernel_width, layer.rec_kernel_height / 2,
        layer.rec_kernel_width / 2, s.out_height,           s.out_width};
  }
  return inputs;
}

// Up to kChunkSteps steps of one input; `first` counts from the first step of the first input.
struct Chunk {
  std::int64_t index;
  std::int64_t input;
  std::int64_t first;
  std::int64_t steps;
};

template <class Visit>
void ForEachChunk(const Inputs& inputs, Visit visit) {
  Chunk chunk{0, 0, 0, 0};
  for (; chunk.input < 2; ++chunk.input) {
    std::int64_t left = inputs.input[chunk.input].Steps();
    for (; left > 0; left -= chunk.steps) {
      chunk.steps = Min(left, kChunkSteps);
      visit(chunk);
      ++chunk.index;
      chunk.first += chunk.steps;
    }
  }
}

// How the sums of a layer become currents.
struct Settings {
  // No sum leaves 16 bits, what rounding adds to it included.
  bool narrow;
  // Few spikes may be computed one by one.
  bool events;
  // A current may have to be clamped.
  bool saturates;
  // Bits the sums are shifted down by: while they have 32 bits, or where they are narrow.
  int wide_shift;
  int narrow_shift;
};

// The sums of a block start from one of four numbers per channel: which inputs have spikes in
// reach. Narrow sums that will be rounded have the half in it.
constexpr int kStarts = 4;

// Where things are in the packed memory.
struct Packed {
  std::int64_t channels;  // whole words
  std::int64_t groups;
  std::int64_t chunks;
  Settings* settings;
  std::int32_t* start;   // [kStarts][channels]
  std::int16_t* silent;  // [channels]: the sum without spikes, as 16 bits
  NeuronLanes* lanes;    // [channels / 32]
  // [chunk][group][step][channel of the group][64]
  std::uint8_t* tables;
  // Weights of single spikes: [32 output channels][input][kernel row][channel][kernel column][32].
  std::int16_t* events;
  // The extras of group g in chunk c are those from extra_begin[c * groups + g] up to the next.
  std::int32_t* extra_begin;
  std::uint8_t* extra_tables;  // [extra][channel of the group][64]

  std::int32_t* ExtraSteps() const {  // counted within the chunk
    return reinterpret_cast<std::int32_t*>(extra_tables +
                                           extra_begin[chunks * groups] * kGroupStepBytes);
  }
  const std::int16_t* Events(const Inputs& inputs, std::int64_t out_word,
                             std::int64_t input) const {
    const std::int64_t before = input == 0 ? 0 : inputs.input[0].EventWeights();
    return events + out_word * inputs.EventWeights() + before;
  }
  std::uint8_t* Tables(const Chunk& chunk, std::int64_t group) const {
    return tables + chunk.first * channels * kStepBytes + group * chunk.steps * kGroupStepBytes;
  }
};

// Hands out aligned parts of a block of memory; of none, to learn how much is needed.
class Divider {
 public:
  explicit Divider(void* memory) : memory_(static_cast<std::uint8_t*>(memory)) {}

  template <class T>
  T* Take(std::int64_t count) {
    auto* taken = memory_ == nullptr ? nullptr : reinterpret_cast<T*>(memory_ + used_);
    used_ += RoundUp(count * static_cast<std::int64_t>(sizeof(T)), kStepBytes);
    return taken;
  }

  std::int64_t used() const { return used_; }

 private:
  std::uint8_t* memory_;
  std::int64_t used_ = 0;
};

// `fixed` becomes the bytes of everything but the extras.
inline Packed PackedOf(const QconvLifLayer& layer, const Inputs& inputs, void* memory,
                       std::int64_t* fixed) {
  Packed p{};
  p.channels = kWordBits * WordsFor(layer.shape.out_channels);
  p.groups = p.channels / kGroup;
  ForEachChunk(inputs, [&p](const Chunk&) { ++p.chunks; });
  Divider parts(memory);
  p.settings = parts.Take<Settings>(1);
  p.start = parts.Take<std::int32_t>(kStarts * p.channels);
  p.silent = parts.Take<std::int16_t>(p.channels);
  p.lanes = parts.Take<NeuronLanes>(p.channels / kWordBits);
  p.tables = parts.Take<std::uint8_t>(inputs.Steps() * p.channels * kStepBytes);
  p.events = parts.Take<std::int16_t>(inputs.EventWeights() * p.channels / kWordBits);
  p.extra_begin = parts.Take<std::int32_t>(p.chunks * p.groups + 1);
  p.extra_tables = parts.Take<std::uint8_t>(0);
  *fixed = parts.used();
  return p;
}

// The weights that one nibble of a step meets on the way to an output channel.
struct NibbleWeights {
  std::int32_t value[4];

  std::int32_t Lowest() const {
    std::int32_t sum = 0;
    for (const std::int32_t w : value) sum += w < 0 ? w : 0;
    return sum;
  }
  std::int32_t Range() const {
    std::int32_t sum = 0;
    for (const std::int32_t w : value) sum += w < 0 ? -w : w;
    return sum;
  }
  std::int32_t Sum(int nibble) const {
    std::int32_t sum = 0;
    for (int bit = 0; bit < 4; ++bit) sum += (nibble >> bit & 1) != 0 ? value[bit] : 0;
    return sum;
  }
};

// Nibble `byte` of a step: in that byte of the word.
inline NibbleWeights WeightsOf(const Input& input, std::int64_t out_channels, std::int64_t channel,
                               std::int64_t step, std::int64_t byte) {
  NibbleWeights weights{};
  if (channel >= out_channels) return weights;
  const std::int64_t positions = input.kernel_height * input.kernel_width;
  const std::int64_t position = step / (2 * input.words);
  const std::int64_t word = step / 2 % input.words;
  const std::int64_t first = kWordBits * word + 8 * byte + 4 * (step % 2);
  for (std::int64_t i = 0; i < Min(4, input.channels - first); ++i) {
    weights.value[i] = input.weight[(channel * input.channels + first + i) * positions + position];
  }
  return weights;
}

// Extra tables that a group needs for a step.
inline std::int64_t ExtrasOf(const Input& input, std::int64_t out_channels, std::int64_t group,
                             std::int64_t step) {
  std::int32_t range = 1;
  for (std::int64_t i = 0; i < 4 * kGroup; ++i) {
    const NibbleWeights weights =
        WeightsOf(input, out_channels, group * kGroup + i / 4, step, i % 4);
    if (weights.Range() > range) range = weights.Range();
  }
  return (range - 1) / kByteMax;
}

// Tables of a group for a step: what is left of each sum once the tables before have taken a byte
// `part` times.
inline void WriteTables(const Input& input, std::int64_t out_channels, std::int64_t group,
                        std::int64_t step, std::int64_t part, std::uint8_t* table) {
  for (std::int64_t i = 0; i < 4 * kGroup; ++i) {
    const NibbleWeights weights =
        WeightsOf(input, out_channels, group * kGroup + i / 4, step, i % 4);
    for (int nibble = 0; nibble < 16; ++nibble) {
      const std::int64_t left = weights.Sum(nibble) - weights.Lowest() - part * kByteMax;
      *table++ = static_cast<std::uint8_t>(left < 0 ? 0 : Min(left, kByteMax));
    }
  }
}

inline std::int64_t CountExtras(const QconvLifLayer& layer, const Inputs& inputs,
                                std::int64_t groups) {
  std::int64_t extras = 0;
  for (const Input& input : inputs.input) {
    for (std::int64_t group = 0; group < groups; ++group) {
      for (std::int64_t step = 0; step < input.Steps(); ++step) {
        extras += ExtrasOf(input, layer.shape.out_channels, group, step);
      }
    }
  }
  return extras;
}

inline std::size_t PackedBytes(const QconvLifLayer& layer) {
  const Inputs inputs = InputsOf(layer);
  std::int64_t fixed = 0;
  const Packed p = PackedOf(layer, inputs, nullptr, &fixed);
  constexpr std::int64_t kExtraBytes = kGroupStepBytes + sizeof(std::int32_t);
  return static_cast<std::size_t>(fixed + CountExtras(layer, inputs, p.groups) * kExtraBytes);
}

inline void PackTables(const QconvLifLayer& layer, const Inputs& inputs, const Packed& p) {
  const std::int64_t out_channels = layer.shape.out_channels;
  p.extra_begin[p.chunks * p.groups] =
      static_cast<std::int32_t>(CountExtras(layer, inputs, p.groups));
  std::int32_t* extra_step = p.ExtraSteps();
  std::int32_t extras = 0;
  ForEachChunk(inputs, [&](const Chunk& chunk) {
    const Input& input = inputs.input[chunk.input];
    const std::int64_t first =
        chunk.input == 0 ? chunk.first : chunk.first - inputs.input[0].Steps();
    for (std::int64_t group = 0; group < p.groups; ++group) {
      p.extra_begin[chunk.index * p.groups + group] = extras;
      for (std::int64_t i = 0; i < chunk.steps; ++i) {
        const std::int64_t step = first + i;
        WriteTables(input, out_channels, group, step, 0,
                    p.Tables(chunk, group) + i * kGroupStepBytes);
        for (std::int64_t part = 1; part <= ExtrasOf(input, out_channels, group, step); ++part) {
          extra_step[extras] = static_cast<std::int32_t>(i);
          WriteTables(input, out_channels, group, step, part,
                      p.extra_tables + extras++ * kGroupStepBytes);
        }
      }
    }
  });
}

// Smallest and largest sum that the weights of an input give an output channel.
struct Bounds {
  std::int64_t lo, hi;
};

inline Bounds BoundsOf(const Input& input, std::int64_t channel) {
  const std::int64_t count = input.channels * input.kernel_height * input.kernel_width;
  Bounds bounds{0, 0};
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t w = input.weight[channel * count + i];
    (w < 0 ? bounds.lo : bounds.hi) += w;
  }
  return bounds;
}

template <class Mem>
Settings SettingsOf(const QconvLifLayer& layer, const Inputs& inputs) {
  const int down = layer.frac_bits < 0 ? -layer.frac_bits : 0;
  const int up = layer.frac_bits < 0 ? 0 : layer.frac_bits;
  const std::int64_t half = down > 0 ? std::int64_t{1} << (down - 1) : 0;
  std::int64_t lo = 0;
  std::int64_t hi = half;
  for (std::int64_t c = 0; c < layer.shape.out_channels; ++c) {
    const Bounds x = BoundsOf(inputs.input[0], c);
    const Bounds own = BoundsOf(inputs.input[1], c);
    const std::int64_t start = layer.bias[c] + half;
    lo = Min(lo, start + x.lo + own.lo);
    hi = -Min(-hi, -(start + x.hi + own.hi));
  }
  Settings settings{};
  settings.narrow =
      lo >= MembraneLimits<std::int16_t>::kLo && hi <= MembraneLimits<std::int16_t>::kHi;
  const std::int64_t span = (std::int64_t{MembraneLimits<Mem>::kHi} + 1) >> up;
  settings.events = settings.narrow;
  for (const Input& input : inputs.input) {
    if (input.Steps() > 0 && input.kernel_width != kEventWidth) settings.events = false;
  }
  settings.saturates = !settings.narrow || (lo >> down) < -span || (hi >> down) > span - 1;
  (settings.narrow ? settings.narrow_shift : settings.wide_shift) = down;
  return settings;
}

// The numbers that sums start from. Sums wrap around, which only unsigned arithmetic defines.
inline void PackStarts(const QconvLifLayer& layer, const Inputs& inputs, const Packed& p) {
  const int shift = p.settings->narrow_shift;
  const std::uint32_t half = shift > 0 ? 1u << (shift - 1) : 0u;
  for (std::int64_t c = 0; c < p.channels; ++c) {
    const bool exists = c < layer.shape.out_channels;
    for (int start = 0; start < kStarts; ++start) {
      std::uint32_t sum = exists ? static_cast<std::uint32_t>(layer.bias[c]) + half : 0u;
      for (int i = 0; exists && i < 2; ++i) {
        if ((start >> i & 1) == 0) continue;
        sum += static_cast<std::uint32_t>(BoundsOf(inputs.input[i], c).lo);
      }
      p.start[start * p.channels + c] = static_cast<std::int32_t>(sum);
    }
    const std::int32_t silent = p.start[c];
    p.silent[c] = static_cast<std::int16_t>(
        p.settings->narrow ? silent : QlifCurrent<std::int16_t>(silent, -p.settings->wide_shift));
  }
}

// The weights of an input for the output channels first..first + 31.
inline void PackEvents(const Input& input, std::int64_t out_channels, std::int64_t first,
                       std::int16_t* out) {
  const std::int64_t positions = input.kernel_height * input.kernel_width;
  for (std::int64_t u = 0; u < input.kernel_height; ++u) {
    for (std::int64_t c = 0; c < input.words * kWordBits; ++c) {
      for (std::int64_t v = 0; v < input.kernel_width; ++v) {
        for (std::int64_t o = first; o < first + kWordBits; ++o) {
          const bool exists = o < out_channels && c < input.channels;
          const std::int64_t at = (o * input.channels + c) * positions + u * input.kernel_width + v;
          *out++ = exists ? input.weight[at] : std::int16_t{0};
        }
      }
    }
  }
}

template <class Mem>
void Pack(const QconvLifLayer& layer, void* packed) {
  const Inputs inputs = InputsOf(layer);
  std::int64_t fixed = 0;
  const Packed p = PackedOf(layer, inputs, packed, &fixed);
  *p.settings = SettingsOf<Mem>(layer, inputs);
  PackStarts(layer, inputs, p);
  for (std::int64_t i = 0; i < p.channels / kWordBits; ++i) {
    FillNeuronLanes<Mem>(layer.decay, layer.threshold, i * kWordBits, layer.shape.out_channels,
                         &p.lanes[i]);
    std::int16_t* events = p.events + i * inputs.EventWeights();
    for (const Input& input : inputs.input) {
      PackEvents(input, layer.shape.out_channels, i * kWordBits, events);
      events += input.EventWeights();
    }
  }
  PackTables(layer, inputs, p);
}

}  // namespace
}  // namespace lif_op
