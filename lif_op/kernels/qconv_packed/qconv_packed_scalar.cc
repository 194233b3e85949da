// Convolution of packed spikes by tables: the sum of the weights of eight channels, looked up by
// the byte of a word that holds their spikes. A pixel of the flow head costs four look-ups, each of
// which brings the sums of two output channels.
//
// One popcount per bit of the weights would be the alternative. This needs no instruction set, and
// the tables of a 1x1 convolution stay in the innermost cache.
#include <cstdint>

#include "kernels/qconv_packed/qconv_packed_contract.h"

namespace lif_op::scalar {
namespace {

constexpr std::int64_t kByteBits = 8;
constexpr std::int64_t kBytes = kWordBits / kByteBits;
constexpr std::int64_t kValues = 1 << kByteBits;
// Output channels whose sums lie side by side in a table.
constexpr std::int64_t kPair = 2;

// Pixels whose sums are kept at hand while the taps of a kernel pass over them.
constexpr std::int64_t kBlock = 64;

// Sums wrap around, which only unsigned arithmetic defines. Both are added by one instruction.
typedef std::uint32_t Sums __attribute__((vector_size(kPair * sizeof(std::uint32_t))));

std::int64_t Pairs(const QconvShape& s) { return (s.out_channels + kPair - 1) / kPair; }
std::int64_t TablesPerTap(const QconvShape& s) { return WordsFor(s.in_channels) * kBytes; }
std::int64_t TablesPerPair(const QconvShape& s) {
  return s.kernel_height * s.kernel_width * TablesPerTap(s);
}

std::size_t WeightBytes(const QconvShape& s) {
  return static_cast<std::size_t>(Pairs(s) * TablesPerPair(s) * kValues) * sizeof(Sums);
}

// The weight of a channel at a tap, 0 beyond the last channel of either side.
std::uint32_t WeightAt(const QconvShape& s, const std::int8_t* weight, std::int64_t out,
                       std::int64_t in, std::int64_t tap) {
  if (out >= s.out_channels || in >= s.in_channels) return 0;
  const std::int64_t taps = s.kernel_height * s.kernel_width;
  return static_cast<std::uint32_t>(weight[(out * s.in_channels + in) * taps + tap]);
}

// A value's sum is that of the value without its lowest bit, and that bit's weight.
void FillTable(const QconvShape& s, const std::int8_t* weight, std::int64_t first_out,
               std::int64_t first_in, std::int64_t tap, Sums* table) {
  table[0] = Sums{};
  for (std::int64_t value = 1; value < kValues; ++value) {
    const int lowest = __builtin_ctz(static_cast<unsigned>(value));
    const Sums rest = table[value & (value - 1)];
    for (std::int64_t o = 0; o < kPair; ++o) {
      table[value][o] = rest[o] + WeightAt(s, weight, first_out + o, first_in + lowest, tap);
    }
  }
}

void PackWeight(const QconvShape& s, const std::int8_t* weight, void* packed) {
  auto* table = static_cast<Sums*>(packed);
  for (std::int64_t pair = 0; pair < Pairs(s); ++pair) {
    for (std::int64_t tap = 0; tap < s.kernel_height * s.kernel_width; ++tap) {
      for (std::int64_t byte = 0; byte < TablesPerTap(s); ++byte) {
        FillTable(s, weight, pair * kPair, byte * kByteBits, tap, table);
        table += kValues;
      }
    }
  }
}

// Adds what four tables give for a word of every pixel; words lie `step` apart.
void AddWords(const std::uint32_t* words, std::int64_t step, const Sums* tables,
              std::int64_t pixels, Sums* sums) {
  for (std::int64_t i = 0; i < pixels; ++i) {
    const std::uint32_t word = words[i * step];
    Sums sum = sums[i];
    for (std::int64_t byte = 0; byte < kBytes; ++byte) {
      sum += tables[byte * kValues + (word >> (byte * kByteBits) & (kValues - 1))];
    }
    sums[i] = sum;
  }
}

// The output columns of begin..end whose tap at offset `first` (of column 0) and distance `stride`
// lies inside an input of `size`.
Range Inside(std::int64_t begin, std::int64_t end, std::int64_t first, std::int64_t stride,
             std::int64_t size) {
  while (begin < end && begin * stride + first < 0) ++begin;
  while (begin < end && (end - 1) * stride + first >= size) --end;
  return {begin, end};
}

// The sums of a block of pixels of one output row, for the pair of channels the tables are of.
void AddTaps(const QconvPackedArgs& args, std::int64_t item, Range columns, const Sums* tables,
             Sums* sums) {
  const QconvShape& s = args.shape;
  const std::int64_t words = WordsFor(s.in_channels);
  const std::uint32_t* image = args.x + item / s.out_height * s.in_height * s.in_width * words;
  for (std::int64_t u = 0; u < s.kernel_height; ++u) {
    const std::int64_t row = item % s.out_height * s.stride_height + u - s.pad_top;
    if (row < 0 || row >= s.in_height) continue;
    for (std::int64_t v = 0; v < s.kernel_width; ++v) {
      const std::int64_t first = v - s.pad_left;
      const Range inside = Inside(columns.begin, columns.end, first, s.stride_width, s.in_width);
      if (inside.begin == inside.end) continue;
      const std::int64_t column = inside.begin * s.stride_width + first;
      const std::uint32_t* x = image + (row * s.in_width + column) * words;
      const Sums* of_tap = tables + (u * s.kernel_width + v) * TablesPerTap(s) * kValues;
      for (std::int64_t k = 0; k < words; ++k) {
        AddWords(x + k, s.stride_width * words, of_tap + k * kBytes * kValues,
                 inside.end - inside.begin, sums + (inside.begin - columns.begin));
      }
    }
  }
}

void ComputeRow(const QconvPackedArgs& args, std::int64_t item, std::int64_t pair) {
  const QconvShape& s = args.shape;
  const Sums* tables = static_cast<const Sums*>(args.weight) + pair * TablesPerPair(s) * kValues;
  const std::int64_t first = pair * kPair;
  const std::int64_t outs = s.out_channels - first < kPair ? s.out_channels - first : kPair;
  const std::int64_t channel = item / s.out_height * s.out_channels + first;
  std::int32_t* acc = args.acc + (channel * s.out_height + item % s.out_height) * s.out_width;
  Sums bias{};
  for (std::int64_t o = 0; o < outs; ++o) {
    bias[o] = static_cast<std::uint32_t>(args.bias[first + o]);
  }
  for (std::int64_t begin = 0; begin < s.out_width; begin += kBlock) {
    const std::int64_t pixels = s.out_width - begin < kBlock ? s.out_width - begin : kBlock;
    Sums sums[kBlock];
    for (std::int64_t i = 0; i < pixels; ++i) sums[i] = bias;
    AddTaps(args, item, {begin, begin + pixels}, tables, sums);
    for (std::int64_t o = 0; o < outs; ++o) {
      std::int32_t* out = acc + o * s.out_height * s.out_width + begin;
      for (std::int64_t i = 0; i < pixels; ++i) out[i] = static_cast<std::int32_t>(sums[i][o]);
    }
  }
}

void Compute(const QconvPackedArgs& args, Range rows) {
  for (std::int64_t item = rows.begin; item < rows.end; ++item) {
    for (std::int64_t pair = 0; pair < Pairs(args.shape); ++pair) {
      ComputeRow(args, item, pair);
    }
  }
}

constexpr QconvPackedKernel kKernel = {WeightBytes, PackWeight, Compute};

}  // namespace

const QconvPackedKernel& QconvPacked() { return kKernel; }

}  // namespace lif_op::scalar
