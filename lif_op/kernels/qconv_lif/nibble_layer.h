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

// Sums of kBlocks blocks, while look-ups are added.
template <class Isa, int kBlocks>
struct Sums {
  typename Isa::Sum value[kBlocks * kVectors<Isa>];
};

// The blocks that are computed together.
template <int kBlocks>
struct Blocks {
  std::int64_t index[kBlocks];

  template <class Isa>
  const std::uint8_t* Bytes(const std::uint8_t* first, int vector) const {
    return first + index[vector / kVectors<Isa>] * kBlock + vector % kVectors<Isa> * Isa::kBytes;
  }
};

// Where a chunk has been read up to.
struct Cursor {
  const std::uint8_t* table;
  const std::int32_t* offset;
};

template <class Isa, int kBlocks, int kSize>
inline __attribute__((always_inline)) void AddGroups(std::int32_t count,
                                                     const std::uint8_t* scratch,
                                                     const Blocks<kBlocks>& blocks, Cursor& cursor,
                                                     Sums<Isa, kBlocks>& sums) {
  constexpr int kAll = kBlocks * kVectors<Isa>;
  for (; count > 0; --count) {
    typename Isa::Bytes found[kAll];
    LIF_OP_UNROLL
    for (int i = 0; i < kSize; ++i) {
      const typename Isa::Bytes table = Isa::LoadTable(cursor.table + i * kTableBytes);
      const std::uint8_t* first = scratch + cursor.offset[i];
      LIF_OP_UNROLL
      for (int v = 0; v < kAll; ++v) {
        const auto bytes = Isa::LookUp(table, blocks.template Bytes<Isa>(first, v));
        found[v] = i == 0 ? bytes : Isa::AddBytes(found[v], bytes);
      }
    }
    LIF_OP_UNROLL
    for (int v = 0; v < kAll; ++v) Isa::Widen(found[v], sums.value[v]);
    cursor.table += kSize * kTableBytes;
    cursor.offset += kSize;
  }
}

template <class Isa, int kBlocks>
inline __attribute__((always_inline)) void AddChunk(const Chunk* chunk, const std::uint8_t* scratch,
                                                    const Blocks<kBlocks>& blocks,
                                                    Sums<Isa, kBlocks>& sums) {
  LIF_OP_UNROLL
  for (int v = 0; v < kBlocks * kVectors<Isa>; ++v) sums.value[v] = typename Isa::Sum{};
  Cursor cursor{TablesOf(chunk), OffsetsOf(chunk)};
  AddGroups<Isa, kBlocks, 4>(chunk->groups[0], scratch, blocks, cursor, sums);
  AddGroups<Isa, kBlocks, 3>(chunk->groups[1], scratch, blocks, cursor, sums);
  AddGroups<Isa, kBlocks, 2>(chunk->groups[2], scratch, blocks, cursor, sums);
  AddGroups<Isa, kBlocks, 1>(chunk->groups[3], scratch, blocks, cursor, sums);
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
    const int half = down_ > 0 ? down_ - 1 : 0;
    const std::int32_t one = down_ > 0 ? 1 : 0;
    for (std::int64_t i = 0; i < kBlock; ++i) {
      const auto sum = static_cast<std::int32_t>(sums[i]);
      const std::int32_t rounded = (sum >> down_) + (sum >> half & one);
      const std::int32_t bounded = rounded < lo_ ? lo_ : rounded > hi_ ? hi_ : rounded;
      out[i] = static_cast<std::int16_t>(bounded * (1 << up_));
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
  std::int64_t current_channels;  // from one block of currents to the next
};

// The currents of one output channel whose sums fit 16 bits.
template <class Isa, int kBlocks, class Mem>
void NarrowChannel(const TileInputs& in, const Channel& channel, const Blocks<kBlocks>& blocks,
                   const Current<Isa, Mem>& current, std::int16_t* currents) {
  Sums<Isa, kBlocks> sums;
  AddChunk(Packed::In<Chunk>(in.packed, channel.program), in.scratch, blocks, sums);
  const auto start = Isa::Splat(static_cast<std::int16_t>(channel.start & 0xFFFFu));
  LIF_OP_UNROLL
  for (int v = 0; v < kBlocks * kVectors<Isa>; ++v) {
    typename Isa::Lanes lanes[kParts<Isa>];
    Isa::InOrder(sums.value[v], lanes);
    std::int16_t* out = currents + blocks.index[v / kVectors<Isa>] * in.current_channels * kBlock +
                        v % kVectors<Isa> * Isa::kBytes;
    LIF_OP_UNROLL
    for (int part = 0; part < kParts<Isa>; ++part) {
      Isa::Store(current.Narrow(Isa::Add(lanes[part], start)), out + part * Isa::kLanes);
    }
  }
}

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

// The currents of one output channel of any sums.
template <class Isa, int kBlocks, class Mem>
void WideChannel(const TileInputs& in, std::int64_t index, const Blocks<kBlocks>& blocks,
                 const Current<Isa, Mem>& current, std::int16_t* currents) {
  const Channel& channel = Packed::In<Channel>(in.packed, in.layout.channels_at)[index];
  alignas(64) std::uint32_t sums[kBlocks * kBlock];
  for (std::uint32_t& sum : sums) sum = channel.start;
  const auto* chunk = Packed::In<Chunk>(in.packed, channel.program);
  for (std::int32_t i = 0; i < channel.chunks; ++i, chunk = NextChunk(chunk)) {
    Sums<Isa, kBlocks> part;
    AddChunk(chunk, in.scratch, blocks, part);
    alignas(64) std::int16_t narrow[kBlocks * kBlock];
    LIF_OP_UNROLL
    for (int v = 0; v < kBlocks * kVectors<Isa>; ++v) {
      typename Isa::Lanes lanes[kParts<Isa>];
      Isa::InOrder(part.value[v], lanes);
      LIF_OP_UNROLL
      for (int p = 0; p < kParts<Isa>; ++p) {
        Isa::Store(lanes[p], narrow + v * Isa::kBytes + p * Isa::kLanes);
      }
    }
    for (std::int64_t j = 0; j < kBlocks * kBlock; ++j) {
      sums[j] += static_cast<std::uint16_t>(narrow[j]);
    }
  }
  for (int b = 0; b < kBlocks; ++b) {
    std::uint32_t* own = sums + b * kBlock;
    if (in.layout.count_weights > 0) AddCounts<Isa>(in, index, blocks.index[b], own);
    current.Wide(own, currents + blocks.index[b] * in.current_channels * kBlock);
  }
}

// The currents of all output channels of kBlocks blocks.
template <class Isa, int kBlocks, class Mem>
void BlockCurrents(const TileInputs& in, std::int64_t channel, const std::int64_t* index,
                   const Current<Isa, Mem>& current, std::int16_t* currents) {
  Blocks<kBlocks> blocks;
  for (int b = 0; b < kBlocks; ++b) blocks.index[b] = index[b];
  const Channel& c = Packed::In<Channel>(in.packed, in.layout.channels_at)[channel];
  std::int16_t* out = currents + channel * kBlock;
  if (c.wide) return WideChannel<Isa, kBlocks>(in, channel, blocks, current, out);
  NarrowChannel<Isa, kBlocks>(in, c, blocks, current, out);
}

// The blocks of a tile with anything in reach.
struct ActiveBlocks {
  std::int64_t count = 0;
  std::int64_t index[kTileBlocks];
  bool active[kTileBlocks];
};

template <class Isa>
void FindActive(const TileInputs& in, std::int64_t blocks, ActiveBlocks* found) {
  const auto* offset = Packed::In<std::int32_t>(in.packed, in.layout.occupancies_at);
  for (std::int64_t block = 0; block < blocks; ++block) {
    typename Isa::Bytes seen{};
    for (std::int64_t i = 0; i < in.layout.occupancies; ++i) {
      const std::uint8_t* bytes = in.scratch + offset[i] + block * kBlock;
      LIF_OP_UNROLL
      for (int v = 0; v < kVectors<Isa>; ++v) {
        seen = Isa::OrBytes(seen, Isa::LoadBytes(bytes + v * Isa::kBytes));
      }
    }
    found->active[block] = Isa::AnyBit(seen);
    if (found->active[block]) found->index[found->count++] = block;
  }
}

// Channels come in the outer loop: the tables of one then stay at hand for all blocks.
template <class Isa, class Mem>
void TileCurrents(const TileInputs& in, std::int64_t channels, const ActiveBlocks& blocks,
                  const Current<Isa, Mem>& current, std::int16_t* currents) {
  for (std::int64_t channel = 0; channel < channels; ++channel) {
    std::int64_t i = 0;
    for (; i + 4 <= blocks.count; i += 4) {
      BlockCurrents<Isa, 4>(in, channel, blocks.index + i, current, currents);
    }
    if (i + 2 <= blocks.count) {
      BlockCurrents<Isa, 2>(in, channel, blocks.index + i, current, currents);
      i += 2;
    }
    if (i < blocks.count) {
      BlockCurrents<Isa, 1>(in, channel, blocks.index + i, current, currents);
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

// One row of outputs of the tile that starts at output column `tile`; the windows are filled.
template <class Isa, Reset kReset, class Mem>
void TileRow(const QconvLifArgs<Mem>& args, const TileInputs& in, const Current<Isa, Mem>& current,
             std::int64_t item, std::int64_t tile, std::int64_t blocks, std::int16_t* currents,
             std::int16_t* transposed) {
  const QconvShape& s = args.layer.shape;
  ActiveBlocks found;
  FindActive<Isa>(in, blocks, &found);
  TileCurrents<Isa>(in, s.out_channels, found, current, currents);
  for (std::int64_t block = 0; block < blocks; ++block) {
    const std::int64_t column = tile + block * kBlock;
    const std::int16_t* own =
        found.active[block] ? currents + block * in.current_channels * kBlock : nullptr;
    AdvanceBlock<Isa, kReset>(args, in, own, item * s.out_width + column,
                              Min(kBlock, s.out_width - column), transposed);
  }
}

template <class Isa, Reset kReset, class Mem>
void ComputeRows(const QconvLifArgs<Mem>& args, Range rows, std::uint8_t* scratch) {
  const QconvShape& s = args.layer.shape;
  const Sources both = SourcesOf<Isa>(args.layer);
  const Scratch places = ScratchOf(args.layer, both);
  const TileInputs in{scratch, args.packed, PackedOf(args.layer, both), places.channels};
  const Current<Isa, Mem> current(args.layer.frac_bits);
  auto* currents = reinterpret_cast<std::int16_t*>(scratch + places.currents);
  auto* transposed = reinterpret_cast<std::int16_t*>(scratch + places.transposed);
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
      TileRow<Isa, kReset>(args, in, current, item, tile, blocks, currents, transposed);
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
constexpr QconvLifKernel<Mem> kNibbleKernel = {Supports<Mem>, PackedBytes<Isa>, Pack<Isa, Mem>,
                                               ScratchBytes<Isa>, Compute<Isa, Mem>};

}  // namespace
}  // namespace lif_op

#undef LIF_OP_UNROLL
