// The fused layer by look-up: sums, currents, neurons. See nibble_geometry.h.
#pragma once

#include "kernels/qconv_lif/nibble_input.h"
#include "kernels/qconv_lif/nibble_program.h"

#define LIF_OP_UNROLL _Pragma("GCC unroll 16")

namespace lif_op {
namespace {

template <class Isa>
constexpr int kVectors = kBlock / Isa::kBytes;  // of bytes, of a block
template <class Isa>
constexpr int kParts = Isa::kBytes / Isa::kLanes;  // 16-bit vectors of a vector of bytes

// Sums of the spikes of one output channel, of all blocks of a tile.
template <class Isa>
struct Sums {
  typename Isa::Sum value[kTileBlocks][kVectors<Isa>];
  std::uint32_t smallest[kTileBlocks];  // to be added
};

// Some of the groups of an output channel.
struct Groups {
  const std::uint8_t* first;
  std::int32_t count;
  std::int32_t smallest;
};

// Adds groups to the sums of the kBlocks blocks `index`.
template <class Isa, int kBlocks, int kSize>
inline __attribute__((always_inline)) void AddGroups(const Groups& groups,
                                                     const std::uint8_t* scratch,
                                                     const std::int64_t* index, Sums<Isa>& sums) {
  constexpr int kAll = kBlocks * kVectors<Isa>;
  typename Isa::Sum sum[kAll];
  std::int64_t place[kAll];
  LIF_OP_UNROLL
  for (int v = 0; v < kAll; ++v) {
    const std::int64_t block = index[v / kVectors<Isa>];
    sum[v] = sums.value[block][v % kVectors<Isa>];
    place[v] = block * kBlock + v % kVectors<Isa> * Isa::kBytes;
  }
  const std::uint8_t* group = groups.first;
  for (std::int32_t count = groups.count; count > 0; --count, group += GroupBytes(kSize)) {
    const auto* offset = reinterpret_cast<const std::int32_t*>(group + kSize * kTableBytes);
    typename Isa::Bytes table[kSize];
    const std::uint8_t* first[kSize];
    LIF_OP_UNROLL
    for (int i = 0; i < kSize; ++i) {
      table[i] = Isa::LoadTable(group + i * kTableBytes);
      first[i] = scratch + offset[i];
    }
    LIF_OP_UNROLL
    for (int v = 0; v < kAll; ++v) {
      auto found = Isa::LookUp(table[0], first[0] + place[v]);
      LIF_OP_UNROLL
      for (int i = 1; i < kSize; ++i) {
        found = Isa::AddBytes(found, Isa::LookUp(table[i], first[i] + place[v]));
      }
      Isa::Widen(found, sum[v]);
    }
  }
  LIF_OP_UNROLL
  for (int v = 0; v < kAll; ++v) {
    sums.value[index[v / kVectors<Isa>]][v % kVectors<Isa>] = sum[v];
  }
}

// Adds groups to the sums of `count` blocks.
template <class Isa, int kSize>
void AddGroups(const Groups& groups, const std::uint8_t* scratch, const std::int64_t* index,
               std::int64_t count, Sums<Isa>& sums) {
  std::int64_t i = 0;
  for (; i + 4 <= count; i += 4) AddGroups<Isa, 4, kSize>(groups, scratch, index + i, sums);
  if (i + 2 <= count) {
    AddGroups<Isa, 2, kSize>(groups, scratch, index + i, sums);
    i += 2;
  }
  if (i < count) AddGroups<Isa, 1, kSize>(groups, scratch, index + i, sums);
  for (i = 0; i < count; ++i) {
    sums.smallest[index[i]] += static_cast<std::uint32_t>(groups.smallest);
  }
}

template <class Isa>
void AddGroups(const Groups& groups, std::int32_t size, const std::uint8_t* scratch,
               const std::int64_t* index, std::int64_t count, Sums<Isa>& sums) {
  switch (size) {
    case 1:
      return AddGroups<Isa, 1>(groups, scratch, index, count, sums);
    case 2:
      return AddGroups<Isa, 2>(groups, scratch, index, count, sums);
    case 3:
      return AddGroups<Isa, 3>(groups, scratch, index, count, sums);
    default:
      return AddGroups<Isa, 4>(groups, scratch, index, count, sums);
  }
}

// What turns sums into currents, the same for all neurons of a layer.
template <class Isa, class Mem>
class Current {
 public:
  explicit Current(int frac_bits) : down_(frac_bits < 0 ? -frac_bits : 0) {
    up_ = frac_bits > 0 ? frac_bits : 0;
    const std::int32_t span = (MembraneLimits<Mem>::kHi + 1) >> up_;
    lo_ = -span;
    hi_ = span - 1;
  }

  // Of sums that fit 16 bits.
  typename Isa::Lanes Narrow(typename Isa::Lanes sum) const {
    if (down_ > 0) {
      // floor((a + 2^(k-1)) / 2^k) without the sum, which could overflow.
      const auto half = Isa::And(Isa::ShiftDown(sum, down_ - 1), Isa::Splat(1));
      sum = Isa::Add(Isa::ShiftDown(sum, down_), half);
    }
    sum = Isa::AtLeast(Isa::AtMost(sum, Isa::Splat(hi_)), Isa::Splat(lo_));
    return Isa::ShiftUp(sum, up_);
  }

  // Of the sums of a block.
  void Wide(const std::uint32_t* sums, std::int16_t* out) const {
    // Copies, and one loop for each step: in this form compilers vectorise.
    const int down = down_;
    const int up = up_;
    const std::int32_t lo = lo_;
    const std::int32_t hi = hi_;
    std::int32_t rounded[kBlock];
    for (std::int64_t i = 0; i < kBlock; ++i) rounded[i] = static_cast<std::int32_t>(sums[i]);
    if (down > 0) {
      for (std::int32_t& sum : rounded) sum = (sum >> down) + (sum >> (down - 1) & 1);
    }
    for (std::int64_t i = 0; i < kBlock; ++i) {
      const std::int32_t sum = rounded[i];
      const std::int32_t bounded = sum < lo ? lo : sum > hi ? hi : sum;
      out[i] = static_cast<std::int16_t>(static_cast<std::uint32_t>(bounded) << up);
    }
  }

 private:
  int down_;
  int up_;
  std::int32_t lo_;
  std::int32_t hi_;
};

// What a tile is computed from.
struct TileInputs {
  const std::uint8_t* scratch;
  const void* packed;
  Packed layout;
  std::int64_t current_channels;    // from one block of currents to the next
  const ActiveBlocks* active_rows;  // of each row of the windows
  std::int64_t full;                // blocks that are active in all rows of spikes; they come first
};

// Adds what the counts contribute to a block of an output channel.
template <class Isa>
void AddCounts(const TileInputs& in, std::int64_t channel, std::int64_t block,
               std::uint32_t* sums) {
  using Words = typename Isa::Words;
  constexpr int kAll = kBlock / Words::kLanes;
  const auto* offset = Packed::In<std::int32_t>(in.packed, in.layout.count_offsets_at);
  const auto* weight = Packed::In<std::uint32_t>(in.packed, in.layout.count_weights_at) +
                       channel * in.layout.count_weights;
  typename Words::Vector sum[kAll];
  LIF_OP_UNROLL
  for (int v = 0; v < kAll; ++v) sum[v] = Words::Load(sums + v * Words::kLanes);
  for (std::int64_t i = 0; i < in.layout.count_weights; ++i) {
    const auto* words =
        reinterpret_cast<const std::uint32_t*>(in.scratch + offset[i]) + block * kBlock;
    const typename Words::Vector w = Words::Broadcast(weight[i]);
    LIF_OP_UNROLL
    for (int v = 0; v < kAll; ++v) {
      sum[v] = Words::Dot(sum[v], Words::Load(words + v * Words::kLanes), w);
    }
  }
  LIF_OP_UNROLL
  for (int v = 0; v < kAll; ++v) Words::Store(sums + v * Words::kLanes, sum[v]);
}

template <class Isa>
void ClearSums(const ActiveBlocks& active, Sums<Isa>& sums) {
  for (std::int64_t i = 0; i < active.count; ++i) {
    for (auto& sum : sums.value[active.index[i]]) sum = typename Isa::Sum{};
    sums.smallest[active.index[i]] = 0;
  }
}

// Calls visit(lanes, at) for the 16-bit sums of a block, `at` being the column of the first.
template <class Isa, class Visit>
inline __attribute__((always_inline)) void ForEachLanes(const Sums<Isa>& sums, std::int64_t block,
                                                        Visit visit) {
  LIF_OP_UNROLL
  for (int v = 0; v < kVectors<Isa>; ++v) {
    typename Isa::Lanes lanes[kParts<Isa>];
    Isa::InOrder(sums.value[block][v], lanes);
    LIF_OP_UNROLL
    for (int part = 0; part < kParts<Isa>; ++part) {
      visit(lanes[part], v * Isa::kBytes + part * Isa::kLanes);
    }
  }
}

// Adds chunk by chunk to the blocks that are not active in all rows.
template <class Isa>
void AddChunks(const TileInputs& in, const Channel& channel, const std::uint8_t* groups,
               Sums<Isa>& sums) {
  const auto* chunk = Packed::In<Chunk>(in.packed, channel.chunks_at);
  for (const Chunk* end = chunk + channel.chunks; chunk < end; ++chunk) {
    const ActiveBlocks& active = in.active_rows[chunk->row];
    AddGroups({groups, chunk->groups, chunk->smallest}, channel.group_size, in.scratch,
              active.index + in.full, active.count - in.full, sums);
    groups += chunk->groups * GroupBytes(channel.group_size);
  }
}

// The currents of one output channel whose sums fit 16 bits, in which they may wrap on the way.
template <class Isa, class Mem>
void NarrowChannel(const TileInputs& in, const Channel& channel, const ActiveBlocks& active,
                   const Current<Isa, Mem>& current, std::int16_t* currents) {
  Sums<Isa> sums;
  ClearSums(active, sums);
  const auto* groups = Packed::In<std::uint8_t>(in.packed, channel.groups_at);
  AddGroups({groups, channel.groups, channel.smallest}, channel.group_size, in.scratch,
            active.index, in.full, sums);
  if (active.count > in.full) AddChunks(in, channel, groups, sums);
  for (std::int64_t i = 0; i < active.count; ++i) {
    const std::int64_t block = active.index[i];
    std::int16_t* out = currents + block * in.current_channels * kBlock;
    const std::uint32_t start = channel.start + sums.smallest[block];
    const auto start_lanes = Isa::Splat(static_cast<std::int16_t>(start & 0xFFFFu));
    ForEachLanes(sums, block, [&](typename Isa::Lanes lanes, std::int64_t at) {
      Isa::Store(current.Narrow(Isa::Add(lanes, start_lanes)), out + at);
    });
  }
}

// The currents of one output channel of any sums.
template <class Isa, class Mem>
void WideChannel(const TileInputs& in, std::int64_t index, const ActiveBlocks& active,
                 const Current<Isa, Mem>& current, std::int16_t* currents) {
  const Channel& channel = Packed::In<Channel>(in.packed, in.layout.channels_at)[index];
  alignas(64) std::uint32_t wide[kTileBlocks * kBlock];
  for (std::uint32_t& sum : wide) sum = channel.start;
  const auto* chunk = Packed::In<Chunk>(in.packed, channel.chunks_at);
  const auto* groups = Packed::In<std::uint8_t>(in.packed, channel.groups_at);
  for (const Chunk* end = chunk + channel.chunks; chunk < end; ++chunk) {
    const ActiveBlocks& blocks = in.active_rows[chunk->row];
    Sums<Isa> sums;
    ClearSums(blocks, sums);
    AddGroups({groups, chunk->groups, chunk->smallest}, channel.group_size, in.scratch,
              blocks.index, blocks.count, sums);
    groups += chunk->groups * GroupBytes(channel.group_size);
    for (std::int64_t j = 0; j < blocks.count; ++j) {
      alignas(64) std::int16_t narrow[kBlock];
      ForEachLanes(sums, blocks.index[j], [&](typename Isa::Lanes lanes, std::int64_t at) {
        Isa::Store(lanes, narrow + at);
      });
      std::uint32_t* own = wide + blocks.index[j] * kBlock;
      const std::uint32_t smallest = sums.smallest[blocks.index[j]];
      for (std::int64_t k = 0; k < kBlock; ++k) {
        own[k] += static_cast<std::uint16_t>(narrow[k]) + smallest;
      }
    }
  }
  for (std::int64_t i = 0; i < active.count; ++i) {
    const std::int64_t block = active.index[i];
    std::uint32_t* own = wide + block * kBlock;
    if (in.layout.count_weights > 0) AddCounts<Isa>(in, index, block, own);
    current.Wide(own, currents + block * in.current_channels * kBlock);
  }
}

// Whether anything but zeros is in reach of a block in one row of a window.
template <class Isa>
bool IsActive(const std::uint8_t* scratch, const std::int32_t* offset, std::int64_t count,
              std::int64_t block) {
  typename Isa::Bytes seen{};
  for (std::int64_t i = 0; i < count; ++i) {
    const std::uint8_t* bytes = scratch + offset[i] + block * kBlock;
    LIF_OP_UNROLL
    for (int v = 0; v < kVectors<Isa>; ++v) {
      seen = Isa::OrBytes(seen, Isa::LoadBytes(bytes + v * Isa::kBytes));
    }
  }
  return Isa::AnyBit(seen);
}

// Lists the blocks of `active`, those of `full` first.
inline void ListBlocks(std::uint32_t full, ActiveBlocks* active) {
  active->count = 0;
  const std::uint32_t parts[] = {active->bits & full, active->bits & ~full};
  for (const std::uint32_t bits : parts) {
    for (std::int64_t block = 0; block < kTileBlocks; ++block) {
      if (bits >> block & 1) active->index[active->count++] = block;
    }
  }
}

// Finds the active blocks of each row of the windows, and those of all together. Returns how many
// are active in all rows of spikes.
template <class Isa>
std::int64_t FindActive(const TileInputs& in, const Sources& both, std::int64_t blocks,
                        ActiveBlocks* rows, ActiveBlocks* all) {
  const auto* offset = Packed::In<std::int32_t>(in.packed, in.layout.occupancies_at);
  std::uint32_t full = (1u << blocks) - 1;
  all->bits = 0;
  ActiveBlocks* active = rows;
  for (const Source& source : both.source) {
    for (std::int64_t row = 0; row < source.kernel_height; ++row, ++active) {
      active->bits = 0;
      for (std::int64_t block = 0; block < blocks; ++block) {
        const bool any = IsActive<Isa>(in.scratch, offset, source.kernel_width, block);
        active->bits |= std::uint32_t{any} << block;
      }
      all->bits |= active->bits;
      if (source.spikes) full &= active->bits;
      offset += source.kernel_width;
    }
  }
  full &= all->bits;
  ListBlocks(full, all);
  for (ActiveBlocks* row = rows; row < active; ++row) ListBlocks(full, row);
  return __builtin_popcount(full);
}

// Channels come in the outer loop: the tables of one then stay at hand for all blocks.
template <class Isa, class Mem>
void TileCurrents(const TileInputs& in, std::int64_t channels, const ActiveBlocks& active,
                  const Current<Isa, Mem>& current, std::int16_t* currents) {
  if (active.count == 0) return;
  for (std::int64_t channel = 0; channel < channels; ++channel) {
    const Channel& c = Packed::In<Channel>(in.packed, in.layout.channels_at)[channel];
    std::int16_t* out = currents + channel * kBlock;
    if (c.wide) {
      WideChannel<Isa>(in, channel, active, current, out);
    } else {
      NarrowChannel<Isa>(in, c, active, current, out);
    }
  }
}

// Neurons of one word of channels, of neighbouring pixels.
template <class Mem>
struct WordNeurons {
  const std::int16_t* current;  // [pixel][channel]
  std::int64_t current_pixel;   // from one pixel to the next; 0 where all have the same
  const std::int16_t* decay;
  const std::int16_t* threshold;
  const Mem* mem;
  Mem* mem_out;
  std::int64_t mem_pixel;
  std::uint32_t* spike;
  std::int64_t spike_pixel;
  std::int64_t pixels;
  std::int64_t channels;  // of the word that exist
};

template <class Isa>
constexpr int kWordVectors = kWordBits / Isa::kLanes;

template <class Isa>
struct WordParameters {
  typename Isa::Decay decay[kWordVectors<Isa>];
  typename Isa::Lanes threshold[kWordVectors<Isa>];
};

template <class Isa, class Mem>
typename Isa::Lanes Clamp(typename Isa::Lanes lanes) {
  if constexpr (sizeof(Mem) == 2) return lanes;  // the saturating operations have done it
  return Isa::AtLeast(Isa::AtMost(lanes, Isa::Splat(MembraneLimits<Mem>::kHi)),
                      Isa::Splat(MembraneLimits<Mem>::kLo));
}

// Advances the 32 neurons of one pixel.
template <class Isa, Reset kReset, class Mem>
inline __attribute__((always_inline)) std::uint32_t Advance(const WordParameters<Isa>& parameters,
                                                            const std::int16_t* current,
                                                            const Mem* mem, Mem* mem_out) {
  typename Isa::Lanes fires[kWordVectors<Isa>];
  LIF_OP_UNROLL
  for (int v = 0; v < kWordVectors<Isa>; ++v) {
    const auto threshold = parameters.threshold[v];
    const auto decayed = Isa::Decayed(Isa::Load(mem + v * Isa::kLanes), parameters.decay[v]);
    const auto u =
        Clamp<Isa, Mem>(Isa::AddSaturating(decayed, Isa::Load(current + v * Isa::kLanes)));
    fires[v] = Isa::Above(u, threshold);
    auto after = u;
    if constexpr (kReset == Reset::kZero) {
      after = Isa::AndNot(u, fires[v]);
    } else if constexpr (kReset == Reset::kSubtract) {
      after = Clamp<Isa, Mem>(Isa::SubtractSaturating(u, Isa::And(threshold, fires[v])));
    }
    Isa::Store(after, mem_out + v * Isa::kLanes);
  }
  return Isa::Word(fires);
}

template <class Isa, Reset kReset, class Mem>
void AdvanceWord(const WordNeurons<Mem>& n) {
  WordParameters<Isa> parameters;
  LIF_OP_UNROLL
  for (int v = 0; v < kWordVectors<Isa>; ++v) {
    parameters.decay[v] = Isa::DecayOf(Isa::Load(n.decay + v * Isa::kLanes));
    parameters.threshold[v] = Isa::Load(n.threshold + v * Isa::kLanes);
  }
  const std::int16_t* current = n.current;
  const Mem* mem = n.mem;
  Mem* mem_out = n.mem_out;
  std::uint32_t* spike = n.spike;
  for (std::int64_t pixel = 0; pixel < n.pixels; ++pixel) {
    if (n.channels == kWordBits) {
      *spike = Advance<Isa, kReset>(parameters, current, mem, mem_out);
    } else {
      Mem buffer[kWordBits] = {};
      for (std::int64_t i = 0; i < n.channels; ++i) buffer[i] = mem[i];
      *spike = Advance<Isa, kReset>(parameters, current, buffer, buffer);
      for (std::int64_t i = 0; i < n.channels; ++i) mem_out[i] = buffer[i];
    }
    current += n.current_pixel;
    mem += n.mem_pixel;
    mem_out += n.mem_pixel;
    spike += n.spike_pixel;
  }
}

// Turns the currents of a block, [channel][column], to [column][channel].
template <class Isa>
void Transpose(const std::int16_t* in, std::int64_t channels, std::int16_t* out) {
  for (std::int64_t channel = 0; channel < channels; channel += Isa::kLanes) {
    for (std::int64_t column = 0; column < kBlock; column += Isa::kLanes) {
      Isa::Transpose(in + channel * kBlock + column, kBlock, out + column * channels + channel,
                     channels);
    }
  }
}

// The neurons of a block, the first at `pixel`. Currents null: nothing is in reach.
template <class Isa, Reset kReset, class Mem>
void AdvanceBlock(const QconvLifArgs<Mem>& args, const TileInputs& in, const std::int16_t* currents,
                  std::int64_t pixel, std::int64_t pixels, std::int16_t* transposed) {
  const std::int64_t channels = args.layer.shape.out_channels;
  const std::int64_t words = WordsFor(channels);
  const Lanes lanes = in.layout.LanesIn(in.packed);
  if (currents != nullptr) Transpose<Isa>(currents, in.current_channels, transposed);
  for (std::int64_t word = 0; word < words; ++word) {
    const std::int64_t first = word * kWordBits;
    WordNeurons<Mem> n;
    n.current = (currents == nullptr ? lanes.rest : transposed) + first;
    n.current_pixel = currents == nullptr ? 0 : in.current_channels;
    n.decay = lanes.decay + first;
    n.threshold = lanes.threshold + first;
    n.mem = args.mem + pixel * channels + first;
    n.mem_out = args.mem_out + pixel * channels + first;
    n.mem_pixel = channels;
    n.spike = args.spike + pixel * words + word;
    n.spike_pixel = words;
    n.pixels = pixels;
    n.channels = Min(kWordBits, channels - first);
    AdvanceWord<Isa, kReset>(n);
  }
}

// Where the parts of scratch memory are that a tile writes to.
struct TileMemory {
  std::uint8_t* windows;
  ActiveBlocks* active_rows;
  std::int16_t* currents;
  std::int16_t* transposed;
};

// One row of outputs of the tile that starts at output column `tile`; the windows are filled.
template <class Isa, Reset kReset, class Mem>
void TileRow(const QconvLifArgs<Mem>& args, const Sources& both, TileInputs in,
             const Current<Isa, Mem>& current, std::int64_t item, std::int64_t tile,
             std::int64_t blocks, const TileMemory& memory) {
  const QconvShape& s = args.layer.shape;
  ActiveBlocks active;
  in.full = FindActive<Isa>(in, both, blocks, memory.active_rows, &active);
  TileCurrents<Isa>(in, s.out_channels, active, current, memory.currents);
  for (std::int64_t block = 0; block < blocks; ++block) {
    const std::int64_t column = tile + block * kBlock;
    const bool any = (active.bits >> block & 1) != 0;
    const std::int16_t* own =
        any ? memory.currents + block * in.current_channels * kBlock : nullptr;
    AdvanceBlock<Isa, kReset>(args, in, own, item * s.out_width + column,
                              Min(kBlock, s.out_width - column), memory.transposed);
  }
}

template <class Isa, Reset kReset, class Mem>
void ComputeRows(const QconvLifArgs<Mem>& args, Range rows, std::uint8_t* scratch) {
  const QconvShape& s = args.layer.shape;
  const Sources both = SourcesOf<Isa>(args.layer);
  const Scratch places = ScratchOf(args.layer, both);
  const TileMemory memory{scratch, reinterpret_cast<ActiveBlocks*>(scratch + places.active),
                          reinterpret_cast<std::int16_t*>(scratch + places.currents),
                          reinterpret_cast<std::int16_t*>(scratch + places.transposed)};
  const TileInputs in{scratch,         args.packed,        PackedOf(args.layer, both),
                      places.channels, memory.active_rows, 0};
  const Current<Isa, Mem> current(args.layer.frac_bits);
  // Those of the channels that fill up a word are never written.
  Fill(scratch + places.currents, 0, places.transposed - places.currents);
  for (std::int64_t tile = 0; tile < s.out_width; tile += kTile) {
    const std::int64_t blocks = (Min(kTile, s.out_width - tile) + kBlock - 1) / kBlock;
    for (std::int64_t item = rows.begin; item < rows.end; ++item) {
      const std::int64_t index = item / s.out_height;
      const std::int64_t row = item % s.out_height;
      const bool follows = item > rows.begin && row > 0;
      FillWindow<Isa>(both.source[0], Image(both.source[0], args.x, index), row, follows, tile,
                      blocks, scratch);
      FillWindow<Isa>(both.source[1], Image(both.source[1], args.spike_prev, index), row, follows,
                      tile, blocks, scratch);
      TileRow<Isa, kReset>(args, both, in, current, item, tile, blocks, memory);
    }
  }
}

template <class Isa, class Mem>
void Compute(const QconvLifArgs<Mem>& args, Range rows, void* scratch) {
  auto* bytes = static_cast<std::uint8_t*>(scratch);
  switch (args.layer.reset) {
    case Reset::kZero:
      return ComputeRows<Isa, Reset::kZero>(args, rows, bytes);
    case Reset::kSubtract:
      return ComputeRows<Isa, Reset::kSubtract>(args, rows, bytes);
    case Reset::kNone:
      return ComputeRows<Isa, Reset::kNone>(args, rows, bytes);
  }
}

template <class Isa>
std::size_t ScratchBytes(const QconvLifLayer& layer) {
  return static_cast<std::size_t>(ScratchOf(layer, SourcesOf<Isa>(layer)).bytes);
}

// All layers but those with kernels of more than kReach columns, and with a threshold below all
// membranes, which does not fit the lanes.
template <class Mem>
bool Supports(const QconvLifLayer& layer) {
  if ((layer.shape.kernel_width - 1) / layer.shape.stride_width > kReach) return false;
  if (layer.rec_kernel_width > kReach) return false;
  for (std::int64_t c = 0; c < layer.shape.out_channels; ++c) {
    if (layer.threshold[c] < MembraneLimits<Mem>::kLo) return false;
  }
  return true;
}

template <class Isa, class Mem>
constexpr QconvLifKernel<Mem> kNibbleKernel = {Supports<Mem>,     PackedBytes<Isa>,
                                               Pack<Isa, Mem>,    ScratchBytes<Isa>,
                                               Compute<Isa, Mem>, Isa::kMacsPerUs};

}  // namespace
}  // namespace lif_op

#undef LIF_OP_UNROLL
