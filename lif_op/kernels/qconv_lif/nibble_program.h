// What the fused layer by look-up prepares once per layer: the tables of every output channel and
// the order they are used in, the parameters of the neurons. See nibble_geometry.h.
//
// A table holds unsigned bytes: what the four channels add, plus an offset that makes the smallest
// entry 0. The offsets of all tables are part of the value a sum starts with. A table whose entries
// would exceed a byte is written as the sum of several; one of zeros is left out. Look-ups are
// added as bytes, up to four of them, as long as their largest sum is a byte, and only then widened
// to 16 bits: the tables of a channel are grouped for that.
#pragma once

#include "kernels/qconv_lif/nibble_geometry.h"
#include "kernels/qlif/qlif_contract.h"

namespace lif_op {
namespace {

constexpr int kTableBytes = 16;
constexpr int kLargestGroup = 4;
constexpr std::int32_t kByteSum = 255;
// Groups whose sum is sure to be less than 2^16.
constexpr std::int32_t kChunkGroups = 256;

// A part of a channel's look-ups. Behind it come the tables, then an offset for each: of the
// nibbles of a tile's first output, from the start of the scratch memory. Groups of four come
// first.
struct Chunk {
  std::int32_t groups[kLargestGroup];  // of size 4, 3, 2, 1
};

inline std::int64_t LookUps(const Chunk& chunk) {
  return 4 * chunk.groups[0] + 3 * chunk.groups[1] + 2 * chunk.groups[2] + chunk.groups[3];
}

inline const std::uint8_t* TablesOf(const Chunk* chunk) {
  return reinterpret_cast<const std::uint8_t*>(chunk + 1);
}

inline const std::int32_t* OffsetsOf(const Chunk* chunk) {
  return reinterpret_cast<const std::int32_t*>(TablesOf(chunk) + kTableBytes * LookUps(*chunk));
}

inline std::int64_t ChunkBytes(std::int64_t look_ups) {
  return static_cast<std::int64_t>(sizeof(Chunk)) + kTableBytes * look_ups +
         RoundUp(4 * look_ups, kTableBytes);
}

inline const Chunk* NextChunk(const Chunk* chunk) {
  const std::int64_t bytes = ChunkBytes(LookUps(*chunk));
  return reinterpret_cast<const Chunk*>(reinterpret_cast<const std::uint8_t*>(chunk) + bytes);
}

// An output channel.
struct Channel {
  std::int64_t program;  // its first chunk, from the start of the packed memory
  std::int32_t chunks;
  std::uint32_t start;  // of its sum
  // The sum needs more than 16 bits: it may leave them, comes in several chunks, or is of counts.
  std::int32_t wide;
  std::int32_t unused;
};

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
};

// Calls visit(weights, offset) for every nibble of spikes that an output channel looks at.
template <class Visit>
void ForEachNibble(const Sources& both, std::int64_t channel, Visit visit) {
  for (const Source& source : both.source) {
    if (!source.spikes) continue;
    const std::int64_t positions = source.kernel_height * source.kernel_width;
    const std::int8_t* weight = source.weight + channel * source.channels * positions;
    for (std::int64_t position = 0; position < positions; ++position) {
      for (std::int64_t first = 0; first < source.channels; first += kNibbleChannels) {
        NibbleWeights w{};
        for (std::int64_t i = 0; i < Min(kNibbleChannels, source.channels - first); ++i) {
          w.value[i] = weight[(first + i) * positions + position];
        }
        visit(w, source.NibbleAt(position / source.kernel_width, position % source.kernel_width,
                                 first / kNibbleChannels));
      }
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

inline std::int64_t ItemsOf(const Sources& both, std::int64_t channel) {
  std::int64_t items = 0;
  ForEachNibble(both, channel, [&items](const NibbleWeights& weights, std::int64_t) {
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

// The items of a channel, by magnitude.
class Items {
 public:
  Items(const Sources& both, std::int64_t channel, Item* memory) : items_(memory) {
    for (std::int32_t& first : first_) first = -1;
    ForEachNibble(both, channel, [this](NibbleWeights left, std::int64_t offset) {
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

// Groups of one chunk, collected by their size before they are written.
class ChunkWriter {
 public:
  ChunkWriter() {
    for (std::int32_t& first : first_) first = -1;
  }

  // Takes a group out of `items`.
  void AddGroup(Items& items) {
    std::int32_t group = -1;
    std::int32_t size = 0;
    for (std::int32_t room = kByteSum; size < kLargestGroup; ++size) {
      const std::int32_t index = items.Take(room);
      if (index < 0) break;
      room -= items[index].magnitude;
      items[index].next = group;
      group = index;
    }
    const int slot = kLargestGroup - size;
    std::int32_t last = group;
    while (items[last].next >= 0) last = items[last].next;
    items[last].next = first_[slot];
    first_[slot] = group;
    ++chunk_.groups[slot];
  }

  // Writes the chunk and returns where it ends.
  std::uint8_t* Write(Items& items, std::uint8_t* out) const {
    auto* chunk = reinterpret_cast<Chunk*>(out);
    *chunk = chunk_;
    auto* table = const_cast<std::uint8_t*>(TablesOf(chunk));
    auto* offset = const_cast<std::int32_t*>(OffsetsOf(chunk));
    for (const std::int32_t first : first_) {
      for (std::int32_t index = first; index >= 0; index = items[index].next) {
        WriteTable(items[index].weights, table);
        *offset++ = items[index].offset;
        table += kTableBytes;
      }
    }
    return out + ChunkBytes(LookUps(chunk_));
  }

 private:
  Chunk chunk_{};
  std::int32_t first_[kLargestGroup];
};

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
  ForEachNibble(both, channel, [&bounds](const NibbleWeights& weights, std::int64_t) {
    for (const std::int32_t w : weights.value) (w < 0 ? bounds.lo : bounds.hi) += w;
  });
  return bounds;
}

// Writes the program of a channel to `out` and returns where it ends.
template <class Isa>
std::uint8_t* PackChannel(const QconvLifLayer& layer, const Sources& both, const Packed& p,
                          std::int64_t channel, void* packed, std::uint8_t* out, Item* memory) {
  Channel& c = Packed::In<Channel>(packed, p.channels_at)[channel];
  const Bounds bounds = SpikeBounds(both, channel);
  const std::int32_t bias = layer.bias[channel];
  const std::int32_t subtracted = PackCounts<Isa>(both.source[0], p, channel, packed);
  // The offsets of the tables add up to -bounds.lo. Sums wrap around.
  c.start = static_cast<std::uint32_t>(bias) + static_cast<std::uint32_t>(bounds.lo) +
            static_cast<std::uint32_t>(subtracted);
  c.program = out - static_cast<std::uint8_t*>(packed);
  c.chunks = 0;
  c.unused = 0;
  Items items(both, channel, memory);
  do {
    ChunkWriter writer;
    for (std::int32_t i = 0; i < kChunkGroups && !items.Empty(); ++i) writer.AddGroup(items);
    out = writer.Write(items, out);
    ++c.chunks;
  } while (!items.Empty());
  const bool fits = bias + bounds.lo >= MembraneLimits<std::int16_t>::kLo &&
                    bias + bounds.hi <= MembraneLimits<std::int16_t>::kHi;
  c.wide = !fits || c.chunks > 1 || !both.source[0].spikes;
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
  std::int64_t max_items;  // of one channel
};

inline ProgramSize ProgramSizeOf(const QconvLifLayer& layer, const Sources& both) {
  ProgramSize size{0, 0};
  for (std::int64_t channel = 0; channel < layer.shape.out_channels; ++channel) {
    const std::int64_t items = ItemsOf(both, channel);
    // No chunk but the last has fewer than kChunkGroups items.
    size.bytes += ChunkBytes(items) + items / kChunkGroups * ChunkBytes(kNibbleChannels);
    if (items > size.max_items) size.max_items = items;
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
