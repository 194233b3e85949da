// What the fused layer by look-up prepares once per layer: the tables of every output channel and
// the order they are used in, the parameters of the neurons. See nibble_geometry.h.
//
// A table holds unsigned bytes: what the four channels add, plus an offset that makes the smallest
// entry 0; the value a sum starts with takes the offsets off again. A table whose entries would
// exceed a byte is written as the sum of several; one of zeros is left out. Look-ups are added as
// bytes, as many as are sure to stay a byte, and only then widened to 16 bits.
#pragma once

#include "kernels/qconv_lif/nibble_geometry.h"
#include "kernels/qlif/qlif_contract.h"

namespace lif_op {
namespace {

constexpr int kTableBytes = 16;
constexpr std::int32_t kLargestGroup = 4;
constexpr std::int32_t kByteSum = 255;
// Groups whose sum is sure to be less than 2^16.
constexpr std::int32_t kChunkGroups = 256;

// A part of an output channel's look-ups, in one row of the windows.
struct Chunk {
  std::int32_t row;  // counted over the windows of both sources
  std::int32_t groups;
  std::int32_t smallest;  // sum, which the tables add to each of theirs
};

// An output channel. Its look-ups come in groups that are added as bytes: the tables of a group and
// then their offsets, of the nibbles of a tile's first output from the start of the scratch memory.
// Groups are filled up with tables of zeros. Those of a chunk follow those of the chunk before.
struct Channel {
  std::int64_t chunks_at;  // from the start of the packed memory
  std::int64_t groups_at;
  std::int32_t chunks;
  std::int32_t group_size;
  std::int32_t groups;    // of all chunks
  std::int32_t smallest;  // of all chunks
  std::uint32_t start;    // of the sum, without what the chunks say
  std::int32_t wide;      // the sum may leave 16 bits, or is of counts
};

constexpr std::int64_t GroupBytes(std::int64_t size) { return (size + 1) * kTableBytes; }

// Parameters of the neurons, of whole words of channels. Channels beyond the last get decay 0 and
// the highest threshold, so that they never fire.
struct Lanes {
  std::int16_t* decay;
  std::int16_t* threshold;
  std::int16_t* rest;  // the current where no spike and no count is in reach
};

// Packed memory. The programs come behind `bytes`, and at the end what packing itself needs.
struct Packed {
  std::int64_t channels;
  std::int64_t occupancies;    // bytes to look at for whether anything is in reach
  std::int64_t count_weights;  // of one output channel
  std::int64_t lanes_at, channels_at, occupancies_at, count_offsets_at, count_weights_at;
  std::int64_t bytes;

  Lanes LanesIn(const void* packed) const {
    auto* first = reinterpret_cast<std::int16_t*>(
        const_cast<std::uint8_t*>(static_cast<const std::uint8_t*>(packed)) + lanes_at);
    return {first, first + channels, first + 2 * channels};
  }
  template <class T>
  static T* In(void* packed, std::int64_t at) {
    return reinterpret_cast<T*>(static_cast<std::uint8_t*>(packed) + at);
  }
  template <class T>
  static const T* In(const void* packed, std::int64_t at) {
    return reinterpret_cast<const T*>(static_cast<const std::uint8_t*>(packed) + at);
  }
};

inline Packed PackedOf(const QconvLifLayer& layer, const Sources& both) {
  Packed p{};
  p.channels = kWordBits * WordsFor(layer.shape.out_channels);
  for (const Source& source : both.source) {
    const std::int64_t positions = source.kernel_height * source.kernel_width;
    p.occupancies += positions;
    if (!source.spikes) p.count_weights += positions * source.units;
  }
  constexpr std::int64_t kAlign = static_cast<std::int64_t>(kQconvAlignment);
  p.channels_at = RoundUp(p.lanes_at + 3 * p.channels * 2, kAlign);
  p.occupancies_at =
      p.channels_at + layer.shape.out_channels * static_cast<std::int64_t>(sizeof(Channel));
  p.count_offsets_at = p.occupancies_at + 4 * p.occupancies;
  p.count_weights_at = p.count_offsets_at + 4 * p.count_weights;
  p.bytes = RoundUp(p.count_weights_at + 4 * p.count_weights * layer.shape.out_channels, kAlign);
  return p;
}

// The weights of one nibble at one position of the kernel.
struct NibbleWeights {
  std::int32_t value[kNibbleChannels];

  std::int32_t Magnitude() const {
    std::int32_t sum = 0;
    for (const std::int32_t w : value) sum += w < 0 ? -w : w;
    return sum;
  }

  std::int32_t Smallest() const {
    std::int32_t sum = 0;
    for (const std::int32_t w : value) sum += w < 0 ? w : 0;
    return sum;
  }
};

// Calls visit(weights, offset) for every nibble of spikes that an output channel looks at in a row
// of its kernel.
template <class Visit>
void ForEachNibble(const Source& source, std::int64_t channel, std::int64_t row, Visit visit) {
  if (!source.spikes) return;
  const std::int64_t positions = source.kernel_height * source.kernel_width;
  const std::int8_t* weight =
      source.weight + channel * source.channels * positions + row * source.kernel_width;
  for (std::int64_t column = 0; column < source.kernel_width; ++column) {
    for (std::int64_t first = 0; first < source.channels; first += kNibbleChannels) {
      NibbleWeights w{};
      for (std::int64_t i = 0; i < Min(kNibbleChannels, source.channels - first); ++i) {
        w.value[i] = weight[(first + i) * positions + column];
      }
      visit(w, source.NibbleAt(row, column, first / kNibbleChannels));
    }
  }
}

// A table to be written, in a list.
struct Item {
  NibbleWeights weights;
  std::int32_t magnitude;  // the largest entry
  std::int32_t offset;
  std::int32_t next;  // index of the next item, or -1
};

inline std::int64_t ItemsOf(const Source& source, std::int64_t channel, std::int64_t row) {
  std::int64_t items = 0;
  ForEachNibble(source, channel, row, [&items](const NibbleWeights& weights, std::int64_t) {
    items += (weights.Magnitude() + kByteSum - 1) / kByteSum;
  });
  return items;
}

// Takes weights of a magnitude of at most a byte out of `left`.
inline NibbleWeights TakeByte(NibbleWeights* left) {
  NibbleWeights taken{};
  std::int32_t room = kByteSum;
  for (std::int64_t i = 0; i < kNibbleChannels; ++i) {
    const std::int32_t w = left->value[i];
    const std::int32_t part = w > room ? room : w < -room ? -room : w;
    taken.value[i] = part;
    left->value[i] -= part;
    room -= part < 0 ? -part : part;
  }
  return taken;
}

// The items of a kernel row, by magnitude.
class Items {
 public:
  Items(const Source& source, std::int64_t channel, std::int64_t row, Item* memory)
      : items_(memory) {
    for (std::int32_t& first : first_) first = -1;
    ForEachNibble(source, channel, row, [this](NibbleWeights left, std::int64_t offset) {
      while (left.Magnitude() > 0) {
        const NibbleWeights weights = TakeByte(&left);
        Add({weights, weights.Magnitude(), static_cast<std::int32_t>(offset), -1});
      }
    });
  }

  bool Empty() const { return left_ == 0; }

  // Takes the largest item of a magnitude of at most `limit`, or returns -1.
  std::int32_t Take(std::int32_t limit) {
    for (std::int32_t magnitude = limit; magnitude > 0; --magnitude) {
      const std::int32_t index = first_[magnitude];
      if (index < 0) continue;
      first_[magnitude] = items_[index].next;
      --left_;
      return index;
    }
    return -1;
  }

  Item& operator[](std::int32_t index) { return items_[index]; }

 private:
  void Add(const Item& item) {
    items_[count_] = item;
    items_[count_].next = first_[item.magnitude];
    first_[item.magnitude] = count_++;
    ++left_;
  }

  Item* items_;
  std::int32_t count_ = 0;
  std::int32_t left_ = 0;
  std::int32_t first_[kByteSum + 1];
};

inline void WriteTable(const NibbleWeights& weights, std::uint8_t* table) {
  for (int nibble = 0; nibble < kTableBytes; ++nibble) {
    std::int32_t sum = 0;
    for (int i = 0; i < kNibbleChannels; ++i) {
      const std::int32_t w = weights.value[i];
      if (w < 0) sum -= w;
      if (nibble >> i & 1) sum += w;
    }
    table[nibble] = static_cast<std::uint8_t>(sum);
  }
}

// Takes a group out of `items`: the largest that is left and what fits beside it. Returns its size.
inline std::int32_t TakeGroup(Items& items, std::int32_t group_size, std::int32_t* group) {
  std::int32_t size = 0;
  for (std::int32_t room = kByteSum; size < group_size; ++size) {
    const std::int32_t index = items.Take(room);
    if (index < 0) break;
    room -= items[index].magnitude;
    group[size] = index;
  }
  return size;
}

// The size of groups that takes the fewest instructions: a look-up and an addition for each member,
// and about two more to widen a sum.
inline std::int32_t BestGroupSize(const Sources& both, std::int64_t channel, Item* memory) {
  std::int32_t best = 1;
  std::int64_t least = 0;
  for (std::int32_t size = 1; size <= kLargestGroup; ++size) {
    std::int64_t cost = 0;
    for (const Source& source : both.source) {
      for (std::int64_t row = 0; row < source.kernel_height; ++row) {
        Items items(source, channel, row, memory);
        std::int32_t group[kLargestGroup];
        for (; !items.Empty(); cost += 2 * size + 2) TakeGroup(items, size, group);
      }
    }
    if (size == 1 || cost < least) {
      best = size;
      least = cost;
    }
  }
  return best;
}

// Writes the groups of a chunk, taken out of `items`, to `out` and returns where they end.
inline std::uint8_t* WriteGroups(Items& items, std::int32_t group_size, Chunk* chunk,
                                 std::uint8_t* out) {
  for (; chunk->groups < kChunkGroups && !items.Empty(); ++chunk->groups) {
    std::int32_t group[kLargestGroup];
    const std::int32_t size = TakeGroup(items, group_size, group);
    auto* offsets = reinterpret_cast<std::int32_t*>(out + group_size * kTableBytes);
    for (std::int32_t i = 0; i < group_size; ++i) {
      const Item& item = items[group[i < size ? i : 0]];
      const NibbleWeights weights = i < size ? item.weights : NibbleWeights{};
      WriteTable(weights, out + i * kTableBytes);
      offsets[i] = item.offset;
      chunk->smallest += weights.Smallest();
    }
    out += GroupBytes(group_size);
  }
  return out;
}

// The weights of one output channel for a word of counts.
template <class Isa>
std::uint32_t CountWeight(const Source& source, std::int64_t channel, std::int64_t position,
                          std::int64_t unit, std::int32_t* sum) {
  constexpr std::int64_t kGroup = Isa::Words::kGroup;
  constexpr int kBits = 32 / kGroup;
  const std::int64_t positions = source.kernel_height * source.kernel_width;
  const std::int64_t first = unit * kGroup;
  std::uint32_t word = 0;
  for (std::int64_t i = 0; i < Min(kGroup, source.channels - first); ++i) {
    const std::int8_t w =
        source.weight[(channel * source.channels + first + i) * positions + position];
    *sum += w;
    word |= (static_cast<std::uint32_t>(w) & (0xFFFFFFFFu >> (32 - kBits))) << (i * kBits);
  }
  return word;
}

// Writes the weights of counts and returns what their representation takes off the sum.
template <class Isa>
std::int32_t PackCounts(const Source& source, const Packed& p, std::int64_t channel, void* packed) {
  if (source.spikes) return 0;
  auto* offset = Packed::In<std::int32_t>(packed, p.count_offsets_at);
  auto* weight = Packed::In<std::uint32_t>(packed, p.count_weights_at) + channel * p.count_weights;
  std::int32_t sum = 0;
  for (std::int64_t position = 0; position < source.kernel_height * source.kernel_width;
       ++position) {
    for (std::int64_t unit = 0; unit < source.units; ++unit) {
      *weight++ = CountWeight<Isa>(source, channel, position, unit, &sum);
      *offset++ = static_cast<std::int32_t>(
          source.CountsAt(position / source.kernel_width, position % source.kernel_width, unit));
    }
  }
  return sum * Isa::Words::kSubtracted;
}

struct Bounds {
  std::int64_t lo, hi;
};

// Smallest and largest sum of spikes of a channel, without the bias.
inline Bounds SpikeBounds(const Sources& both, std::int64_t channel) {
  Bounds bounds{0, 0};
  for (const Source& source : both.source) {
    for (std::int64_t row = 0; row < source.kernel_height; ++row) {
      ForEachNibble(source, channel, row, [&bounds](const NibbleWeights& weights, std::int64_t) {
        bounds.lo += weights.Smallest();
        bounds.hi += weights.Magnitude() + weights.Smallest();
      });
    }
  }
  return bounds;
}

// As many as a kernel row can need.
inline std::int64_t ChunksOf(std::int64_t items) { return items / kChunkGroups + 1; }

inline std::int64_t ChunkBytesOf(const Sources& both, std::int64_t channel) {
  std::int64_t chunks = 0;
  for (const Source& source : both.source) {
    for (std::int64_t row = 0; row < source.kernel_height; ++row) {
      chunks += ChunksOf(ItemsOf(source, channel, row));
    }
  }
  return RoundUp(chunks * static_cast<std::int64_t>(sizeof(Chunk)), kTableBytes);
}

// Writes the chunks of a channel to where it says and returns where its groups end.
inline std::uint8_t* PackChunks(const Sources& both, std::int64_t channel, Channel* c, void* packed,
                                Item* memory) {
  auto* chunk = Packed::In<Chunk>(packed, c->chunks_at);
  auto* out = Packed::In<std::uint8_t>(packed, c->groups_at);
  std::int32_t window_row = 0;
  for (const Source& source : both.source) {
    for (std::int64_t row = 0; row < source.kernel_height; ++row, ++window_row) {
      Items items(source, channel, row, memory);
      for (; !items.Empty(); ++chunk, ++c->chunks) {
        *chunk = {window_row, 0, 0};
        out = WriteGroups(items, c->group_size, chunk, out);
        c->groups += chunk->groups;
        c->smallest += chunk->smallest;
      }
    }
  }
  return out;
}

// Writes all there is of a channel; its program to `out`. Returns where that ends.
template <class Isa>
std::uint8_t* PackChannel(const QconvLifLayer& layer, const Sources& both, const Packed& p,
                          std::int64_t channel, void* packed, std::uint8_t* out, Item* memory) {
  const Bounds bounds = SpikeBounds(both, channel);
  const std::int32_t bias = layer.bias[channel];
  const bool fits = bias + bounds.lo >= MembraneLimits<std::int16_t>::kLo &&
                    bias + bounds.hi <= MembraneLimits<std::int16_t>::kHi;
  const std::int32_t subtracted = PackCounts<Isa>(both.source[0], p, channel, packed);
  Channel c{};
  c.chunks_at = out - static_cast<std::uint8_t*>(packed);
  c.groups_at = c.chunks_at + ChunkBytesOf(both, channel);
  c.group_size = BestGroupSize(both, channel, memory);
  // Sums wrap around.
  c.start = static_cast<std::uint32_t>(bias) + static_cast<std::uint32_t>(subtracted);
  c.wide = !fits || !both.source[0].spikes;
  out = PackChunks(both, channel, &c, packed, memory);
  Packed::In<Channel>(packed, p.channels_at)[channel] = c;
  return out;
}

template <class Mem>
void PackLanes(const QconvLifLayer& layer, const Packed& p, void* packed) {
  constexpr std::int32_t kHi = MembraneLimits<Mem>::kHi;
  const Lanes lanes = p.LanesIn(packed);
  for (std::int64_t c = 0; c < p.channels; ++c) {
    const bool exists = c < layer.shape.out_channels;
    const std::int32_t threshold = exists ? layer.threshold[c] : kHi;
    lanes.decay[c] = static_cast<std::int16_t>(exists ? layer.decay[c] : 0);
    lanes.threshold[c] = static_cast<std::int16_t>(threshold < kHi ? threshold : kHi);
    lanes.rest[c] =
        static_cast<std::int16_t>(exists ? QlifCurrent<Mem>(layer.bias[c], layer.frac_bits) : 0);
  }
}

inline void PackOccupancies(const Sources& both, const Packed& p, void* packed) {
  auto* offset = Packed::In<std::int32_t>(packed, p.occupancies_at);
  for (const Source& source : both.source) {
    for (std::int64_t row = 0; row < source.kernel_height; ++row) {
      for (std::int64_t column = 0; column < source.kernel_width; ++column) {
        *offset++ = static_cast<std::int32_t>(source.OccupancyAt(row, column));
      }
    }
  }
}

struct ProgramSize {
  std::int64_t bytes;      // of all channels
  std::int64_t max_items;  // of one kernel row
};

inline ProgramSize ProgramSizeOf(const QconvLifLayer& layer, const Sources& both) {
  ProgramSize size{0, 0};
  for (std::int64_t channel = 0; channel < layer.shape.out_channels; ++channel) {
    for (const Source& source : both.source) {
      for (std::int64_t row = 0; row < source.kernel_height; ++row) {
        const std::int64_t items = ItemsOf(source, channel, row);
        // Groups of one take this much, and larger ones are used only where they take no more.
        size.bytes += items * GroupBytes(1);
        if (items > size.max_items) size.max_items = items;
      }
    }
    size.bytes += ChunkBytesOf(both, channel);
  }
  return size;
}

template <class Isa>
std::size_t PackedBytes(const QconvLifLayer& layer) {
  const Sources both = SourcesOf<Isa>(layer);
  const ProgramSize size = ProgramSizeOf(layer, both);
  return static_cast<std::size_t>(PackedOf(layer, both).bytes + size.bytes) +
         static_cast<std::size_t>(size.max_items) * sizeof(Item);
}

template <class Isa, class Mem>
void Pack(const QconvLifLayer& layer, void* packed) {
  const Sources both = SourcesOf<Isa>(layer);
  const Packed p = PackedOf(layer, both);
  PackLanes<Mem>(layer, p, packed);
  PackOccupancies(both, p, packed);
  std::uint8_t* out = static_cast<std::uint8_t*>(packed) + p.bytes;
  auto* memory = reinterpret_cast<Item*>(out + ProgramSizeOf(layer, both).bytes);
  for (std::int64_t channel = 0; channel < layer.shape.out_channels; ++channel) {
    out = PackChannel<Isa>(layer, both, p, channel, packed, out, memory);
  }
}

}  // namespace
}  // namespace lif_op
