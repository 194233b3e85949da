// The fused layer by look-up in registers: spikes index tables instead of being multiplied. What
// the tables are is in vbmi_tables.h, how the spikes lie in vbmi_rows.h.
//
// A block is sixteen neighbouring pixels of a row. Its sums are computed channel by channel, joined
// to pairs of 16 bits and transposed, so that the neuron finds the channels of a pixel side by
// side. A block with no spike in reach has the bias for its sums, and one with very few adds the
// weights of each to it.
#include <immintrin.h>

#include "kernels/qconv_lif/neuron_avx512.h"
#include "kernels/qconv_lif/qconv_lif_contract.h"
#include "kernels/qconv_lif/transpose_avx512.h"
#include "kernels/qconv_lif/vbmi_rows.h"
#include "kernels/qconv_lif/vbmi_tables.h"

namespace lif_op::avx512vbmi {
namespace {

// The tables of a tile of channels are used for a whole row before those of the next, and should
// stay in the first-level cache.
constexpr std::int64_t kTileBytes = 40 * 1024;
// Up to so many spikes in reach of a block, adding the weights of each takes less time than looking
// up. More of them cost too many mispredicted branches.
constexpr std::int64_t kFewSpikes = 6;
constexpr std::uint8_t kEvents = 4;  // in Scratch::reaches
constexpr std::int64_t kPairs = kWordBits / 2;

std::int64_t TileChannels(const Inputs& inputs) {
  std::int64_t channels = kWordBits;
  while (channels > kGroup && channels * inputs.Steps() * kStepBytes > kTileBytes) channels /= 2;
  return channels;
}

// The sums of sixteen pixels in one channel.
struct alignas(64) Sums {
  std::int32_t pixel[kBlock];
};

// Some steps for a tile of channels.
struct Task {
  const std::uint32_t* const* at;  // the indices of each step in the first block
  std::int64_t column;             // of the block
  const std::uint8_t* tables;
  const std::int32_t* extra_begin;
  const std::int32_t* extra_steps;
  const std::uint8_t* extra_tables;
  const std::int32_t* start;
  std::int64_t groups;
  Sums* sums;
};

inline __m512i LookUp(__m512i sums, __m512i index, const std::uint8_t* table) {
  const __m512i found = _mm512_permutexvar_epi8(index, _mm512_load_si512(table));
  sums = _mm512_dpbusd_epi32(sums, found, _mm512_set1_epi8(1));
  asm volatile("" : "+v"(sums));  // kept in this order, eight sums leave few registers
  return sums;
}

// From memory: through a general register it would take the port that looks up.
inline __m512i Broadcast(const std::int32_t* value) {
  __m512i all;
  asm("vpbroadcastd %1, %0" : "=v"(all) : "m"(*value));
  return all;
}

inline __m512i IndexAt(const Task& task, std::int64_t step) {
  return _mm512_loadu_si512(task.at[step] + task.column);
}

// Adds to the sums, or with kFirst starts them.
template <int kSteps, bool kFirst>
void AddSteps(const Task& task) {
  __m512i index[kSteps];
#pragma GCC unroll 18
  for (int s = 0; s < kSteps; ++s) index[s] = IndexAt(task, s);
  const std::uint8_t* table = task.tables;
  for (std::int64_t g = 0; g < task.groups; ++g) {
    __m512i sums[kGroup];
#pragma GCC unroll 8
    for (int i = 0; i < kGroup; ++i) {
      const std::int64_t channel = g * kGroup + i;
      sums[i] =
          kFirst ? Broadcast(task.start + channel) : _mm512_load_si512(task.sums[channel].pixel);
    }
#pragma GCC unroll 18
    for (int s = 0; s < kSteps; ++s) {
#pragma GCC unroll 8
      for (int i = 0; i < kGroup; ++i) {
        sums[i] = LookUp(sums[i], index[s], table + (s * kGroup + i) * kStepBytes);
      }
    }
    for (std::int32_t extra = task.extra_begin[g]; extra < task.extra_begin[g + 1]; ++extra) {
      const __m512i again = IndexAt(task, task.extra_steps[extra]);
      const std::uint8_t* extra_table = task.extra_tables + extra * kGroupStepBytes;
#pragma GCC unroll 8
      for (int i = 0; i < kGroup; ++i) {
        sums[i] = LookUp(sums[i], again, extra_table + i * kStepBytes);
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < kGroup; ++i) {
      _mm512_store_si512(task.sums[g * kGroup + i].pixel, sums[i]);
    }
    table += kSteps * kGroupStepBytes;
  }
}

using AddFunction = void (*)(const Task& task);

#define LIF_OP_ADD(steps) {AddSteps<steps, false>, AddSteps<steps, true>}
// By half the number of steps, which is even.
constexpr AddFunction kAdd[][2] = {
    {nullptr, nullptr}, LIF_OP_ADD(2),  LIF_OP_ADD(4),  LIF_OP_ADD(6),  LIF_OP_ADD(8),
    LIF_OP_ADD(10),     LIF_OP_ADD(12), LIF_OP_ADD(14), LIF_OP_ADD(16), LIF_OP_ADD(18)};
#undef LIF_OP_ADD
static_assert(sizeof(kAdd) / sizeof(kAdd[0]) == kChunkSteps / 2 + 1);

// 32-bit sums shifted down, rounded, and clamped to 16 bits.
inline __m512i Settle(__m512i sums, int shift) {
  if (shift > 0) {
    const __m128i down = _mm_cvtsi32_si128(shift);
    const __m128i before = _mm_cvtsi32_si128(shift - 1);
    const __m512i half = _mm512_and_si512(_mm512_sra_epi32(sums, before), _mm512_set1_epi32(1));
    sums = _mm512_add_epi32(_mm512_sra_epi32(sums, down), half);
  }
  const __m512i hi = _mm512_set1_epi32(MembraneLimits<std::int16_t>::kHi);
  const __m512i lo = _mm512_set1_epi32(MembraneLimits<std::int16_t>::kLo);
  return _mm512_max_epi32(_mm512_min_epi32(sums, hi), lo);
}

inline __m512i JoinPair(__m512i even, __m512i odd) {
  return _mm512_mask_blend_epi16(0xAAAAAAAAu, even, _mm512_slli_epi32(odd, 16));
}

// Scratch memory.
struct Scratch {
  RowRing ring[2];
  const std::uint32_t** at;  // [step]
  std::uint8_t* reaches;     // [block]: which inputs have spikes in reach of it
  Sums* sums;                // of a tile of channels
  Sums* pairs;               // [block][pair of channels]; one block where a tile is all channels

  Scratch(const QconvLifLayer& layer, const Inputs& inputs, Divider& memory) {
    const std::int64_t width = layer.shape.out_width;
    for (int i = 0; i < 2; ++i) ring[i] = RowRing(inputs.input[i], width, memory);
    at = memory.Take<const std::uint32_t*>(inputs.Steps());
    reaches = memory.Take<std::uint8_t>(BlocksIn(width));
    sums = memory.Take<Sums>(kWordBits);
    const bool one_tile = TileChannels(inputs) == kWordBits;
    pairs = memory.Take<Sums>(kPairs * (one_tile ? 1 : BlocksIn(width)));
  }
};

template <class Mem, Reset kReset>
class Layer {
 public:
  Layer(const QconvLifArgs<Mem>& args, const Inputs& inputs, const Packed& packed, Scratch& scratch)
      : args_(args),
        inputs_(inputs),
        packed_(packed),
        scratch_(scratch),
        neuron_(args.layer.frac_bits, packed.settings->saturates),
        tile_(TileChannels(inputs)) {}

  void Rows(Range rows) {
    const std::int64_t height = args_.layer.shape.out_height;
    for (std::int64_t item = rows.begin; item < rows.end; ++item) {
      const bool follows = item > rows.begin && item % height != 0;
      Advance(item / height, item % height, follows);
      for (std::int64_t word = 0; word < packed_.channels / kWordBits; ++word) Row(item, word);
    }
  }

 private:
  void Advance(std::int64_t image, std::int64_t row, bool follows) {
    const void* tensors[2] = {args_.x, args_.spike_prev};
    const std::uint32_t** at = scratch_.at;
    for (int i = 0; i < 2; ++i) {
      const Input& input = inputs_.input[i];
      if (input.Steps() == 0) continue;
      scratch_.ring[i].Advance(static_cast<const std::uint32_t*>(tensors[i]) +
                                   image * input.height * input.width * input.words,
                               row, follows);
      at = scratch_.ring[i].Locate(at);
    }
    for (std::int64_t block = 0; block < BlocksIn(args_.layer.shape.out_width); ++block) {
      scratch_.reaches[block] = static_cast<std::uint8_t>(Reaches(block));
    }
  }

  unsigned Reaches(std::int64_t block) const {
    unsigned reaches = 0;
    std::int64_t active = 0;
    for (int i = 0; i < 2; ++i) {
      if (inputs_.input[i].Steps() == 0) continue;
      const std::int64_t pixels = scratch_.ring[i].ActiveIn(block);
      reaches |= pixels > 0 ? 1u << i : 0u;
      active += pixels;
    }
    if (active == 0 || active > kFewSpikes || !packed_.settings->events) return reaches;
    std::int64_t spikes = 0;
    for (int i = 0; i < 2; ++i) {
      if ((reaches >> i & 1) != 0) spikes += scratch_.ring[i].SpikesIn(block);
    }
    return spikes <= kFewSpikes ? reaches | kEvents : reaches;
  }

  // Thirty-two channels of a row.
  void Row(std::int64_t item, std::int64_t word) {
    const std::int64_t blocks = BlocksIn(args_.layer.shape.out_width);
    for (std::int64_t first = 0; first < kWordBits; first += tile_) {
      const bool last = first + tile_ == kWordBits;
      for (std::int64_t block = 0; block < blocks; ++block) {
        Sums* pairs = scratch_.pairs + (tile_ == kWordBits ? 0 : block * kPairs);
        if ((scratch_.reaches[block] & kEvents) != 0) {
          if (last) FireEvents(item, word, block);
        } else if (scratch_.reaches[block] != 0) {
          if (last) Prefetch(item, block);
          Convolve(block, word * kWordBits + first);
          Join(pairs + first / 2);
          if (last) FireSums(item, word, block, pairs);
        } else if (last) {
          FireSilent(item, word, block);
        }
      }
    }
  }

  // Membranes come from beyond the second-level cache: asks for those of a block while its sums are
  // computed.
  void Prefetch(std::int64_t item, std::int64_t block) const {
    const std::int64_t width = args_.layer.shape.out_width;
    const std::int64_t channels = args_.layer.shape.out_channels;
    const std::int64_t count = Min(kBlock, width - block * kBlock);
    const Mem* mem = args_.mem + (item * width + block * kBlock) * channels;
    constexpr std::int64_t kLine = 64 / sizeof(Mem);
    for (std::int64_t i = 0; i < count * channels; i += kLine) {
      _mm_prefetch(reinterpret_cast<const char*>(mem + i), _MM_HINT_T0);
    }
  }

  // The sums of a tile of channels.
  void Convolve(std::int64_t block, std::int64_t channel) {
    const unsigned reaches = scratch_.reaches[block];
    Task task{};
    task.column = block * kBlock;
    task.extra_steps = packed_.ExtraSteps();
    task.extra_tables = packed_.extra_tables;
    task.start = packed_.start + reaches * packed_.channels + channel;
    task.groups = tile_ / kGroup;
    task.sums = scratch_.sums;
    const std::int64_t group = channel / kGroup;
    bool first = true;
    ForEachChunk(inputs_, [&](const Chunk& chunk) {
      if ((reaches >> chunk.input & 1) == 0) return;
      task.at = scratch_.at + chunk.first;
      task.tables = packed_.Tables(chunk, group);
      task.extra_begin = packed_.extra_begin + chunk.index * packed_.groups + group;
      kAdd[chunk.steps / 2][first](task);
      first = false;
    });
  }

  // Two channels to a 32-bit lane.
  void Join(Sums* pairs) const {
    const Settings& settings = *packed_.settings;
    for (std::int64_t i = 0; i < tile_ / 2; ++i) {
      __m512i even = _mm512_load_si512(scratch_.sums[2 * i].pixel);
      __m512i odd = _mm512_load_si512(scratch_.sums[2 * i + 1].pixel);
      if (!settings.narrow) {
        even = Settle(even, settings.wide_shift);
        odd = Settle(odd, settings.wide_shift);
      }
      _mm512_store_si512(pairs[i].pixel, JoinPair(even, odd));
    }
  }

  __m512i Current(__m512i sums) const {
    const int shift = packed_.settings->narrow_shift;
    if (shift > 0) sums = _mm512_srav_epi16(sums, _mm512_set1_epi16(static_cast<short>(shift)));
    return neuron_.CurrentOfNarrow(sums);
  }

  // Calls `current(i)` for the pixels of a block, and advances their neurons.
  template <class CurrentOf>
  __attribute__((always_inline)) void Fire(std::int64_t item, std::int64_t word, std::int64_t block,
                                           CurrentOf current) const {
    const std::int64_t width = args_.layer.shape.out_width;
    const std::int64_t channels = args_.layer.shape.out_channels;
    const std::int64_t words = packed_.channels / kWordBits;
    const std::int64_t pixel = item * width + block * kBlock;
    const std::int64_t count = Min(kBlock, width - block * kBlock);
    const std::int64_t left = channels - word * kWordBits;
    const __mmask32 exist = left >= kWordBits ? 0xFFFFFFFFu : (1u << left) - 1u;
    const Mem* mem = args_.mem + pixel * channels + word * kWordBits;
    Mem* mem_out = args_.mem_out + pixel * channels + word * kWordBits;
    std::uint32_t* spike = args_.spike + pixel * words + word;
    const NeuronLanes& lanes = packed_.lanes[word];
    for (std::int64_t i = 0; i < count; ++i) {
      spike[i * words] =
          neuron_(current(i), lanes, exist, mem + i * channels, mem_out + i * channels);
    }
  }

  void FireSums(std::int64_t item, std::int64_t word, std::int64_t block, const Sums* pairs) const {
    __m512i v[kBlock];
#pragma GCC unroll 16
    for (int i = 0; i < kBlock; ++i) v[i] = _mm512_load_si512(pairs[i].pixel);
    Transpose16(v);
    Fire(item, word, block, [&](std::int64_t i) { return Current(v[i]); });
  }

  // Adds the weights of the spikes of one input, column by column: spikes of a column reach the
  // sums of kEventWidth pixels.
  void AddEvents(int input, std::int64_t word, std::int64_t block, __m512i* sums) const {
    const RowRing& ring = scratch_.ring[input];
    const Input& in = inputs_.input[input];
    const std::int16_t* first = packed_.Events(inputs_, word, input);
    std::uint32_t columns = 0;
    for (std::int64_t u = 0; u < in.kernel_height; ++u) columns |= ring.ActiveColumns(block, u);
    for (; columns != 0; columns &= columns - 1) {
      const std::int64_t column = __builtin_ctz(columns);
      __m512i left = sums[column];
      __m512i middle = sums[column + 1];
      __m512i right = sums[column + 2];
      const std::int16_t* weight = first;
      for (std::int64_t i = 0; i < in.kernel_height * in.words; ++i) {
        std::uint32_t spikes = ring.Word(i / in.words, i % in.words, block * kBlock + column);
        for (; spikes != 0; spikes &= spikes - 1) {
          const std::int16_t* w = weight + __builtin_ctz(spikes) * kEventWidth * kWordBits;
          right = _mm512_add_epi16(right, _mm512_load_si512(w));
          middle = _mm512_add_epi16(middle, _mm512_load_si512(w + kWordBits));
          left = _mm512_add_epi16(left, _mm512_load_si512(w + 2 * kWordBits));
        }
        weight += kWordBits * kEventWidth * kWordBits;
      }
      sums[column] = left;
      sums[column + 1] = middle;
      sums[column + 2] = right;
    }
  }

  void FireEvents(std::int64_t item, std::int64_t word, std::int64_t block) const {
    Prefetch(item, block);
    // Of the pixels of the block, and of their neighbours on both sides, which are not used.
    __m512i sums[kBlock + 2 * (kEventWidth - 1)];
    const __m512i silent = _mm512_load_si512(packed_.silent + word * kWordBits);
    for (__m512i& sum : sums) sum = silent;
    for (int i = 0; i < 2; ++i) {
      if ((scratch_.reaches[block] >> i & 1) != 0) AddEvents(i, word, block, sums);
    }
    Fire(item, word, block, [&](std::int64_t i) { return Current(sums[kEventWidth - 1 + i]); });
  }

  void FireSilent(std::int64_t item, std::int64_t word, std::int64_t block) const {
    const __m512i current = Current(_mm512_load_si512(packed_.silent + word * kWordBits));
    Fire(item, word, block, [&](std::int64_t) { return current; });
  }

  const QconvLifArgs<Mem>& args_;
  const Inputs& inputs_;
  const Packed& packed_;
  Scratch& scratch_;
  const Neuron32<Mem, kReset> neuron_;
  const std::int64_t tile_;  // channels
};

// Whether few steps need extras. With as many as wide 8-bit weights need, multiplying takes less
// time. Asked in every time step, and so only looks at the size of the weights.
bool FewExtras(const QconvLifLayer& layer) {
  constexpr std::int32_t kNeverExtra = kByteMax / 4;
  constexpr std::int64_t kMeanOfFew = 40;
  std::int32_t largest = 0;
  std::int64_t sum = 0;
  std::int64_t weights = 0;
  for (const Input& input : InputsOf(layer).input) {
    const std::int64_t count =
        layer.shape.out_channels * input.channels * input.kernel_height * input.kernel_width;
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int32_t size = input.weight[i] < 0 ? -input.weight[i] : input.weight[i];
      largest = size > largest ? size : largest;
      sum += size;
    }
    weights += count;
  }
  return largest <= kNeverExtra || sum <= kMeanOfFew * weights;
}

template <class Mem>
bool Supports(const QconvLifLayer& layer) {
  return layer.packed_x && layer.shape.stride_height == 1 && layer.shape.stride_width == 1 &&
         ThresholdsFit<Mem>(layer.threshold, layer.shape.out_channels) && FewExtras(layer);
}

std::size_t ScratchBytes(const QconvLifLayer& layer) {
  Divider memory(nullptr);
  const Scratch scratch(layer, InputsOf(layer), memory);
  return static_cast<std::size_t>(memory.used());
}

template <class Mem>
void Compute(const QconvLifArgs<Mem>& args, Range rows, void* scratch_memory) {
  const Inputs inputs = InputsOf(args.layer);
  std::int64_t fixed = 0;
  const Packed packed = PackedOf(args.layer, inputs, const_cast<void*>(args.packed), &fixed);
  Divider memory(scratch_memory);
  Scratch scratch(args.layer, inputs, memory);
  switch (args.layer.reset) {
    case Reset::kZero:
      return Layer<Mem, Reset::kZero>(args, inputs, packed, scratch).Rows(rows);
    case Reset::kSubtract:
      return Layer<Mem, Reset::kSubtract>(args, inputs, packed, scratch).Rows(rows);
    case Reset::kNone:
      return Layer<Mem, Reset::kNone>(args, inputs, packed, scratch).Rows(rows);
  }
}

constexpr std::int64_t kMacsPerUs = 580000;

template <class Mem>
constexpr QconvLifKernel<Mem> kKernel = {Supports<Mem>, PackedBytes,  Pack<Mem>,
                                         ScratchBytes,  Compute<Mem>, kMacsPerUs};

}  // namespace

const QconvLifKernel<std::int16_t>& QconvLif16() { return kKernel<std::int16_t>; }
const QconvLifKernel<std::int8_t>& QconvLif8() { return kKernel<std::int8_t>; }

}  // namespace lif_op::avx512vbmi
