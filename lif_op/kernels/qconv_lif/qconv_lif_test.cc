// The fused layer: every target against the separate scalar kernels, unpacked and packed again in
// between. Tensors lie against forbidden pages.
#include "lif_op/qconv_lif.h"

#include <algorithm>
#include <limits>
#include <string>
#include <vector>

#include "kernels/guarded.h"
#include "kernels/testing.h"
#include "lif_op/qlif.h"

namespace lif_op {
namespace {

using testing::Guard;
using testing::Guarded;
using testing::InParts;
using testing::Random;

struct Case {
  const char* name;
  bool packed_x;
  std::int64_t batch, in_channels, out_channels, height, width;
  std::int64_t kernel = 3, stride = 1, pad = 1;
  std::int64_t rec_kernel = 0;  // 0: no second convolution
  int weight_limit = 63;        // weights are -limit..limit
  int spike_percent = 20;       // of neurons; and of counts that are not 0
  int frac_bits = 0;            // of a 16-bit membrane; 8-bit ones have 4 less
  std::int32_t bias_limit = 300;
  bool spoiled_words = false;  // bits beyond the last channel are set
};

const Case kCases[] = {
    // The layers of the networks: counts in, packed in, recurrent; widths around the blocks.
    {"head", false, 1, 2, 32, 9, 33},
    {"layer", true, 1, 32, 32, 10, 48},
    {"layer w16", true, 1, 32, 32, 5, 16},
    {"layer w15", true, 1, 32, 32, 5, 15},
    {"layer w17", true, 1, 32, 32, 5, 17},
    {"layer w31", true, 1, 32, 32, 4, 31},
    {"layer w65", true, 1, 32, 32, 4, 65},
    {"layer w1", true, 1, 32, 32, 7, 1},
    {"layer h1", true, 1, 32, 32, 1, 40},
    {"layer 1x1", true, 1, 32, 32, 1, 1},
    {"recurrent", true, 1, 32, 32, 8, 48, 3, 1, 1, 3},
    {"recurrent w17", true, 2, 32, 32, 6, 17, 3, 1, 1, 3},
    {"recurrent head", false, 1, 2, 32, 6, 21, 3, 1, 1, 3},
    {"batch", true, 3, 32, 32, 5, 20},
    // Densities.
    {"silent", true, 1, 32, 32, 9, 70, 3, 1, 1, 3, 63, 0},
    {"sparse", true, 1, 32, 32, 9, 70, 3, 1, 1, 3, 63, 1},
    {"full", true, 1, 32, 32, 9, 70, 3, 1, 1, 3, 63, 100},
    {"full 8 bit", true, 1, 32, 32, 9, 70, 3, 1, 1, 3, 127, 100},
    {"head full", false, 1, 2, 32, 9, 33, 3, 1, 1, 0, 127, 100},
    // Weight ranges; -128 is legal in the tensor.
    {"8 bit", true, 1, 32, 32, 6, 40, 3, 1, 1, 3, 128},
    {"4 bit", true, 1, 32, 32, 6, 40, 3, 1, 1, 3, 7},
    {"2 bit", true, 1, 32, 32, 6, 40, 3, 1, 1, 0, 1},
    // Membrane units, biases that saturate, and sums that wrap around.
    {"frac 4", true, 1, 32, 32, 6, 40, 3, 1, 1, 3, 63, 20, 4},
    {"frac -3", true, 1, 32, 32, 6, 40, 3, 1, 1, 0, 127, 50, -3},
    {"frac 15", true, 1, 32, 32, 6, 40, 3, 1, 1, 0, 127, 50, 15},
    {"frac -26", true, 1, 32, 32, 6, 40, 3, 1, 1, 0, 127, 50, -26, 1 << 30},
    {"bias saturates", true, 1, 32, 32, 6, 40, 3, 1, 1, 3, 63, 20, 0, 40000},
    {"bias wraps", true, 1, 32, 32, 6, 40, 3, 1, 1, 0, 127, 60, 0,
     std::numeric_limits<std::int32_t>::max()},
    // Channel counts.
    {"8 channels", true, 1, 8, 8, 6, 35, 3, 1, 1, 3},
    {"16 channels", true, 1, 16, 16, 6, 35, 3, 1, 1, 3},
    {"64 channels", true, 1, 64, 64, 6, 35, 3, 1, 1, 3},
    {"64 channels 8 bit", true, 1, 64, 64, 5, 19, 3, 1, 1, 3, 127, 90},
    {"1 channel", true, 1, 1, 1, 6, 35},
    {"5 to 33", true, 1, 5, 33, 6, 19},
    {"33 to 5", true, 2, 33, 5, 6, 19, 3, 1, 1, 3},
    {"100 to 70", true, 1, 100, 70, 4, 9},
    {"head of 5", false, 1, 5, 16, 6, 19},
    {"head of 37", false, 2, 37, 40, 4, 11, 3, 1, 1, 3},
    {"spoiled words", true, 1, 8, 40, 5, 18, 3, 1, 1, 3, 63, 20, 0, 300, true},
    // Kernels, strides, borders.
    {"1x1", true, 1, 32, 32, 6, 35, 1, 1, 0, 1},
    {"5x5", true, 1, 32, 32, 7, 35, 5, 1, 2, 5},
    {"7x7", true, 1, 8, 16, 9, 20, 7, 1, 3, 3},
    {"7x7 head", false, 1, 2, 16, 9, 20, 7, 1, 3},
    {"2x2 no pad", true, 1, 32, 32, 7, 35, 2, 1, 0},
    {"stride 2", true, 1, 32, 32, 9, 41, 3, 2, 1, 3},
    {"stride 2 head", false, 1, 2, 32, 10, 40, 3, 2, 1},
    {"stride 3", true, 1, 32, 32, 10, 40, 3, 3, 1},
    {"no pad", true, 1, 32, 32, 7, 36, 3, 1, 0},
    {"wide pad", true, 1, 32, 32, 4, 18, 3, 1, 4},
    {"kernel beyond the input", true, 1, 32, 32, 2, 2, 5, 1, 2, 5},
    {"empty batch", true, 0, 32, 32, 4, 18},
};

std::int64_t OutputSize(std::int64_t size, const Case& c) {
  return (size + 2 * c.pad - c.kernel) / c.stride + 1;
}

// The tensors of a case, as vectors.
template <class Mem>
struct Data {
  QconvLifLayer layer{};
  std::vector<std::int8_t> weight, weight_rec;
  std::vector<std::int32_t> bias, decay, threshold;
  std::vector<std::uint8_t> x_bytes, previous_bytes;  // NCHW
  std::vector<std::uint32_t> x_words, previous_words;
  std::vector<Mem> mem;
};

template <class T>
std::size_t Size(T count) {
  return static_cast<std::size_t>(count);
}

std::vector<std::uint32_t> Pack(const std::vector<std::uint8_t>& spikes, std::int64_t batch,
                                std::int64_t channels, std::int64_t pixels, bool spoiled) {
  const std::int64_t words = WordsFor(channels);
  const std::uint32_t unused = channels % kWordBits == 0 ? 0u : ~0u << (channels % kWordBits);
  std::vector<std::uint32_t> packed(Size(batch * pixels * words));
  for (std::int64_t n = 0; n < batch; ++n) {
    for (std::int64_t p = 0; p < pixels; ++p) {
      std::uint32_t* word = packed.data() + (n * pixels + p) * words;
      for (std::int64_t c = 0; c < channels; ++c) {
        const std::uint32_t spike = spikes[Size((n * channels + c) * pixels + p)];
        word[c / kWordBits] |= spike << (c % kWordBits);
      }
      if (spoiled) word[words - 1] |= unused;
    }
  }
  return packed;
}

std::vector<std::uint8_t> Bytes(Random& random, std::int64_t count, int percent, int highest) {
  std::vector<std::uint8_t> bytes(Size(count));
  for (std::uint8_t& byte : bytes) {
    if (random.Int(0, 99) < percent) byte = static_cast<std::uint8_t>(random.Int(1, highest));
  }
  return bytes;
}

std::vector<std::int8_t> Weights(Random& random, std::int64_t count, int limit) {
  return random.Vector<std::int8_t>(count, -limit, std::min(limit, 127));
}

template <class Mem>
Data<Mem> MakeData(const Case& c, Reset reset, std::uint64_t seed) {
  constexpr std::int64_t kHi = std::numeric_limits<Mem>::max();
  Random random(seed);
  Data<Mem> d;
  QconvShape& s = d.layer.shape;
  s = {c.batch,
       c.in_channels,
       c.height,
       c.width,
       c.out_channels,
       OutputSize(c.height, c),
       OutputSize(c.width, c),
       c.kernel,
       c.kernel,
       c.stride,
       c.stride,
       c.pad,
       c.pad};
  const std::int64_t in_pixels = c.height * c.width;
  const std::int64_t out_pixels = s.out_height * s.out_width;
  d.weight = Weights(random, c.out_channels * c.in_channels * c.kernel * c.kernel, c.weight_limit);
  d.weight_rec = Weights(random, c.out_channels * c.out_channels * c.rec_kernel * c.rec_kernel,
                         c.weight_limit);
  d.bias = random.Vector<std::int32_t>(c.out_channels, -c.bias_limit, c.bias_limit);
  d.decay = random.Vector<std::int32_t>(c.out_channels, 0, kDecayOne);
  d.threshold = random.Vector<std::int32_t>(c.out_channels, 0, kHi);
  if (c.out_channels > 3) {  // the ends of what is legal, and a threshold beyond all membranes
    d.decay[1] = kDecayOne;
    d.decay[2] = 0;
    d.threshold[2] = std::numeric_limits<std::int32_t>::max();
    d.threshold[3] = -5;
  }
  d.x_bytes =
      Bytes(random, c.batch * c.in_channels * in_pixels, c.spike_percent, c.packed_x ? 1 : 255);
  d.x_words = Pack(d.x_bytes, c.batch, c.in_channels, in_pixels, c.spoiled_words);
  d.previous_bytes = Bytes(random, c.batch * c.out_channels * out_pixels, c.spike_percent, 1);
  d.previous_words = Pack(d.previous_bytes, c.batch, c.out_channels, out_pixels, c.spoiled_words);
  d.mem = random.Vector<Mem>(c.batch * out_pixels * c.out_channels, std::numeric_limits<Mem>::min(),
                             kHi);
  d.layer.packed_x = c.packed_x;
  d.layer.rec_kernel_height = d.layer.rec_kernel_width = c.rec_kernel;
  d.layer.weight = d.weight.data();
  d.layer.bias = d.bias.data();
  d.layer.weight_rec = c.rec_kernel == 0 ? nullptr : d.weight_rec.data();
  d.layer.decay = d.decay.data();
  d.layer.threshold = d.threshold.data();
  d.layer.frac_bits = std::max(kMinFracBits, c.frac_bits - (sizeof(Mem) == 1 ? 4 : 0));
  d.layer.frac_bits = std::min<int>(d.layer.frac_bits, 8 * sizeof(Mem) - 1);
  d.layer.reset = reset;
  return d;
}

template <class Mem>
struct Result {
  std::vector<std::uint32_t> spike;
  std::vector<Mem> mem;

  bool operator==(const Result& other) const { return spike == other.spike && mem == other.mem; }
};

std::vector<std::int32_t> Convolution(const QconvShape& shape, const std::uint8_t* x,
                                      const std::int8_t* weight, const std::int32_t* bias) {
  const QconvKernel& kernel = QconvFor(Target::kScalar);
  std::vector<std::uint8_t> packed(kernel.weight_bytes(shape));
  std::vector<std::int32_t> acc(
      Size(shape.batch * shape.out_channels * shape.out_height * shape.out_width));
  kernel.pack_weight(shape, weight, packed.data());
  kernel.compute({shape, x, packed.data(), bias, acc.data(), nullptr},
                 {0, shape.batch * shape.out_height});
  return acc;
}

// What the separate kernels give, whose own tests compare them with their definitions.
template <class Mem>
Result<Mem> Expected(const Data<Mem>& d) {
  const QconvShape& s = d.layer.shape;
  const std::int64_t pixels = s.out_height * s.out_width;
  auto acc = Convolution(s, d.x_bytes.data(), d.weight.data(), d.bias.data());
  if (d.layer.weight_rec != nullptr) {
    QconvShape own = s;
    own.in_channels = s.out_channels;
    own.in_height = s.out_height;
    own.in_width = s.out_width;
    own.kernel_height = d.layer.rec_kernel_height;
    own.kernel_width = d.layer.rec_kernel_width;
    own.stride_height = own.stride_width = 1;
    own.pad_top = own.kernel_height / 2;
    own.pad_left = own.kernel_width / 2;
    const std::vector<std::int32_t> zero(Size(s.out_channels));
    const auto more = Convolution(own, d.previous_bytes.data(), d.weight_rec.data(), zero.data());
    for (std::size_t i = 0; i < acc.size(); ++i) {
      acc[i] = static_cast<std::int32_t>(static_cast<std::uint32_t>(acc[i]) +
                                         static_cast<std::uint32_t>(more[i]));
    }
  }
  // The neuron channel by channel is a neuron of batch * pixels images of one pixel each.
  std::vector<std::int32_t> acc_last(acc.size());
  for (std::int64_t n = 0; n < s.batch; ++n) {
    for (std::int64_t c = 0; c < s.out_channels; ++c) {
      for (std::int64_t p = 0; p < pixels; ++p) {
        acc_last[Size((n * pixels + p) * s.out_channels + c)] =
            acc[Size((n * s.out_channels + c) * pixels + p)];
      }
    }
  }
  Result<Mem> result{{}, std::vector<Mem>(d.mem.size())};
  std::vector<std::uint8_t> fired(d.mem.size());
  const auto size = static_cast<std::int64_t>(d.mem.size());
  QlifFor<Mem>(Target::kScalar)({acc_last.data(),
                                 d.mem.data(),
                                 d.decay.data(),
                                 d.threshold.data(),
                                 fired.data(),
                                 result.mem.data(),
                                 {s.out_channels, 1, size},
                                 d.layer.frac_bits,
                                 d.layer.reset},
                                {0, size});
  const std::int64_t words = WordsFor(s.out_channels);
  result.spike.resize(Size(s.batch * pixels * words));
  for (std::int64_t i = 0; i < size; ++i) {
    const std::int64_t c = i % s.out_channels;
    result.spike[Size(i / s.out_channels * words + c / kWordBits)] |= std::uint32_t{fired[Size(i)]}
                                                                      << (c % kWordBits);
  }
  return result;
}

struct How {
  Target target;
  std::int64_t parts;
  bool in_place;
  Guard guard;
};

template <class Mem>
Result<Mem> Run(const Data<Mem>& d, const How& how) {
  const QconvLifKernel<Mem>& kernel = QconvLifFor<Mem>(how.target, d.layer);
  const QconvShape& s = d.layer.shape;
  const Guarded<std::uint8_t> x_bytes(d.x_bytes, how.guard);
  const Guarded<std::uint32_t> x_words(d.x_words, how.guard);
  const Guarded<std::uint32_t> previous(d.previous_words, how.guard);
  const Guarded<Mem> mem(d.mem, how.guard);
  const Guarded<Mem> other_mem(d.mem.size(), how.guard);
  const Guarded<std::uint32_t> spike(
      Size(s.batch * s.out_height * s.out_width * WordsFor(s.out_channels)), how.guard);
  QconvLifLayer constants = d.layer;  // packed without sizes, as at the creation of a session
  constants.shape.batch = constants.shape.in_height = constants.shape.in_width = 0;
  constants.shape.out_height = constants.shape.out_width = 0;
  const Guarded<std::uint8_t> packed(kernel.packed_bytes(constants), how.guard, kQconvAlignment);
  kernel.pack(constants, packed.data());
  const QconvLifArgs<Mem> args{d.layer,
                               packed.data(),
                               d.layer.packed_x ? static_cast<const void*>(x_words.data())
                                                : static_cast<const void*>(x_bytes.data()),
                               d.layer.weight_rec == nullptr ? nullptr : previous.data(),
                               mem.data(),
                               spike.data(),
                               how.in_place ? mem.data() : other_mem.data()};
  InParts(s.batch * s.out_height, how.parts, [&](Range rows) {
    const Guarded<std::uint8_t> scratch(kernel.scratch_bytes(d.layer), how.guard, kQconvAlignment);
    kernel.compute(args, rows, scratch.data());
  });
  return {spike.Values(), how.in_place ? mem.Values() : other_mem.Values()};
}

template <class Mem>
void CheckCase(const Case& c, Reset reset, std::uint64_t seed) {
  const Data<Mem> data = MakeData<Mem>(c, reset, seed);
  const Result<Mem> expected = Expected(data);
  for (const Target target : SupportedTargets()) {
    const std::string where = std::string(TargetName(target)) + ", " + c.name + ", mem" +
                              std::to_string(8 * sizeof(Mem)) + ", reset " +
                              std::to_string(static_cast<int>(reset));
    CHECK(Run(data, {target, 1, false, Guard::kBehind}) == expected, where);
    CHECK(Run(data, {target, 3, true, Guard::kBefore}) == expected, where + ", in place");
  }
}

void TestCases() {
  std::uint64_t seed = 0;
  for (const Case& c : kCases) {
    for (const Reset reset : {Reset::kZero, Reset::kSubtract, Reset::kNone}) {
      if (testing::Selected(++seed)) CheckCase<std::int16_t>(c, reset, seed);
      if (testing::Selected(++seed)) CheckCase<std::int8_t>(c, reset, seed);
    }
  }
}

// Layers nobody wrote down.
void TestRandomLayers() {
  Random random(7);
  for (int i = 0; i < 150; ++i) {
    Case c{"random",          random.Int(0, 2) > 0, random.Int(1, 2), random.Int(1, 70),
           random.Int(1, 70), random.Int(1, 9),     random.Int(1, 70)};
    c.kernel = random.Int(0, 3) > 0 ? 3 : random.Int(1, 5);
    c.stride = random.Int(0, 3) > 0 ? 1 : random.Int(1, 3);
    c.pad = random.Int(0, 3) > 0 ? c.kernel / 2 : random.Int(0, 4);
    if (c.height + 2 * c.pad < c.kernel || c.width + 2 * c.pad < c.kernel) continue;
    c.rec_kernel = 2 * random.Int(-1, 2) + 1;
    if (c.rec_kernel < 0) c.rec_kernel = 0;
    c.weight_limit = static_cast<int>(random.Int(1, 128));
    c.spike_percent = static_cast<int>(random.Int(0, 100));
    c.frac_bits = static_cast<int>(random.Int(-8, 8));
    if (testing::Selected(1000 + i)) CheckCase<std::int16_t>(c, Reset::kZero, 1000 + i);
    if (testing::Selected(2000 + i)) CheckCase<std::int8_t>(c, Reset::kSubtract, 2000 + i);
  }
}

// A layer of which only some tiles have spikes in reach, over steps in place.
void TestQuietTiles() {
  constexpr std::int64_t kHeight = 12;
  constexpr std::int64_t kWidth = 80;
  const Case c{"quiet tiles", true, 1, 32, 32, kHeight, kWidth, 3, 1, 1, 3, 63, 0};
  for (const Target target : SupportedTargets()) {
    Data<std::int16_t> data = MakeData<std::int16_t>(c, Reset::kZero, 5);
    Random random(6);
    for (int step = 0; step < 15; ++step) {
      std::fill(data.x_bytes.begin(), data.x_bytes.end(), std::uint8_t{0});
      for (int i = 0; step % 3 != 2 && i < 6; ++i) {
        data.x_bytes[Size(random.Int(0, 32 * kHeight * kWidth - 1))] = 1;
      }
      data.x_words = Pack(data.x_bytes, 1, 32, kHeight * kWidth, false);
      const Result<std::int16_t> expected = Expected(data);
      CHECK(Run(data, {target, 2, true, Guard::kBehind}) == expected,
            std::string(TargetName(target)) + ", step " + std::to_string(step));
      data.mem = expected.mem;
      data.previous_words = expected.spike;
      for (std::int64_t i = 0; i < 32 * kHeight * kWidth; ++i) {
        const std::int64_t channel = i / (kHeight * kWidth);
        data.previous_bytes[Size(i)] =
            static_cast<std::uint8_t>(expected.spike[Size(i % (kHeight * kWidth))] >> channel & 1u);
      }
    }
  }
}

// A threshold below all membranes fires always.
void TestLowThresholds() {
  Case c{"low thresholds", true, 1, 32, 32, 4, 20};
  for (const Target target : SupportedTargets()) {
    for (const Reset reset : {Reset::kZero, Reset::kSubtract, Reset::kNone}) {
      Data<std::int16_t> data = MakeData<std::int16_t>(c, reset, 9);
      data.threshold[0] = std::numeric_limits<std::int32_t>::min();
      data.threshold[9] = std::numeric_limits<std::int16_t>::min() - 1;
      data.threshold[10] = std::numeric_limits<std::int16_t>::min();
      CHECK(Run(data, {target, 1, true, Guard::kBehind}) == Expected(data), TargetName(target));
    }
  }
}

}  // namespace
}  // namespace lif_op

int main() {
  lif_op::TestCases();
  lif_op::TestRandomLayers();
  lif_op::TestQuietTiles();
  lif_op::TestLowThresholds();
  return lif_op::testing::Report("qconv_lif_test");
}
