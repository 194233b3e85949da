// The fused layer: any small shape, weights, spikes and membranes; every target against the scalar
// one, over steps that feed spikes and membranes back.
#include <algorithm>
#include <stdexcept>

#include "fuzz/aligned.h"
#include "fuzz/input.h"
#include "lif_op/check.h"
#include "lif_op/qconv_lif.h"
#include "lif_op/qlif.h"

namespace {

using fuzz::Aligned;
using fuzz::Demand;
using fuzz::Input;
using fuzz::Size;
using lif_op::Dims;
using lif_op::QconvLifLayer;
using lif_op::Target;
using lif_op::WordsFor;

constexpr int kSteps = 2;

template <class Mem>
struct Case {
  QconvLifLayer layer{};
  std::int64_t cut = 0;  // output rows are computed in two pieces, the second one first
  bool in_place = false;
  std::vector<std::int8_t> weight, weight_rec;
  std::vector<std::int32_t> bias, decay, threshold;
  std::vector<std::uint8_t> counts;
  std::vector<std::uint32_t> spikes, spike_prev;
  std::vector<Mem> mem;
};

template <class Mem>
struct Result {
  std::vector<std::uint32_t> spike;
  std::vector<Mem> mem;

  bool operator==(const Result& other) const { return spike == other.spike && mem == other.mem; }
};

// Weights within the limits that the fast paths are made for, more often than not.
std::vector<std::int8_t> Weights(Input& input, std::int64_t count) {
  static constexpr int kLimits[] = {1, 7, 63, 63, 127, 128};
  const int limit = kLimits[input.Int(0, 5)];
  auto weights = input.Vector<std::int8_t>(count);
  if (limit == 128) return weights;
  for (std::int8_t& weight : weights) {
    weight = static_cast<std::int8_t>(weight % (limit + 1));
  }
  return weights;
}

// Words whose bits are set rarely, often or at random.
std::vector<std::uint32_t> Words(Input& input, std::int64_t count) {
  const std::int64_t density = input.Int(0, 3);
  auto words = input.Vector<std::uint32_t>(count);
  for (std::uint32_t& word : words) {
    if (density == 0) word &= word >> 7 & word >> 13 & word << 5;
    if (density == 1) word = 0;
    if (density == 2) word = ~std::uint32_t{0};
  }
  return words;
}

bool ReadShape(Input& input, QconvLifLayer* layer) {
  static constexpr std::int64_t kChannels[] = {1, 2, 5, 8, 16, 31, 32, 32, 32, 33, 40, 64};
  const std::int64_t in = kChannels[input.Int(0, 11)];
  const std::int64_t out = kChannels[input.Int(0, 11)];
  const std::int64_t rec = input.Flag() ? 1 + 2 * input.Int(0, 2) : 0;
  lif_op::QconvLifDims dims{};
  dims.packed_x = input.Flag();
  const std::int64_t batch = input.Int(1, 2), height = input.Int(1, 5), width = input.Int(1, 40);
  dims.x =
      dims.packed_x ? Dims{batch, height, width, WordsFor(in)} : Dims{batch, in, height, width};
  // The kernels of networks more often than others.
  const std::int64_t kernel = input.Flag() ? 3 : input.Int(1, 5);
  dims.weight = {out, in, kernel, input.Flag() ? kernel : input.Int(1, 5)};
  dims.bias = dims.decay = dims.threshold = {out};
  const std::int64_t stride = input.Flag() ? 1 : input.Int(1, 3);
  const Dims strides = {stride, input.Flag() ? stride : input.Int(1, 3)};
  const std::int64_t pad = input.Flag() ? kernel / 2 : input.Int(0, 5);
  const Dims pads = {pad, input.Flag() ? pad : input.Int(0, 5), pad, pad};
  dims.recurrent = rec > 0;
  dims.weight_rec = {out, out, rec, rec};
  try {
    *layer = lif_op::CheckQconvLifConstants(dims, strides, pads);
    layer->shape = dims.packed_x
                       ? lif_op::CheckQconvPacked(dims.x, dims.weight, dims.bias, strides, pads)
                       : lif_op::CheckQconv(dims.x, dims.weight, dims.bias, strides, pads);
  } catch (const std::invalid_argument&) {
    return false;
  }
  const lif_op::QconvShape& s = layer->shape;
  const std::int64_t work = s.batch * s.out_height * s.out_width * out *
                            (in * s.kernel_height * s.kernel_width + out * rec * rec);
  return work <= 400000;  // many small executions find more than a few large ones
}

template <class Mem>
bool Read(Input& input, Case<Mem>* c) {
  QconvLifLayer& layer = c->layer;
  if (!ReadShape(input, &layer)) return false;
  const lif_op::QconvShape& s = layer.shape;
  const std::int64_t pixels = s.batch * s.out_height * s.out_width;
  c->in_place = input.Flag();
  c->cut = s.batch * s.out_height * input.Int(0, 255) / 255;
  layer.reset = static_cast<lif_op::Reset>(input.Int(0, 2));
  const bool plain = input.Flag();  // a network's numbers, else any legal ones
  layer.frac_bits = static_cast<int>(plain ? input.Int(-4, 2)
                                           : input.Int(lif_op::kMinFracBits, 8 * sizeof(Mem) - 1));
  c->weight = Weights(input, s.out_channels * s.in_channels * s.kernel_height * s.kernel_width);
  c->weight_rec = Weights(
      input, s.out_channels * s.out_channels * layer.rec_kernel_height * layer.rec_kernel_width);
  c->bias = input.Vector<std::int32_t>(s.out_channels);
  c->decay = input.Vector<std::int32_t>(s.out_channels);
  for (std::int32_t& decay : c->decay) decay = std::min(decay & 511, lif_op::kDecayOne);
  c->threshold = input.Vector<std::int32_t>(s.out_channels);
  if (plain) {
    for (std::int32_t& bias : c->bias) bias %= 300;
    for (std::int32_t& threshold : c->threshold) threshold %= 2000;
  }
  c->mem = input.Vector<Mem>(pixels * s.out_channels);
  const std::int64_t in_pixels = s.batch * s.in_height * s.in_width;
  if (layer.packed_x) {
    c->spikes = Words(input, in_pixels * WordsFor(s.in_channels));
  } else {
    c->counts = input.Vector<std::uint8_t>(in_pixels * s.in_channels);
  }
  if (layer.rec_kernel_height > 0) {
    c->spike_prev = Words(input, pixels * WordsFor(s.out_channels));
  }
  layer.weight = c->weight.data();
  layer.weight_rec = layer.rec_kernel_height > 0 ? c->weight_rec.data() : nullptr;
  layer.bias = c->bias.data();
  layer.decay = c->decay.data();
  layer.threshold = c->threshold.data();
  return true;
}

template <class Mem>
Result<Mem> Run(Target target, const Case<Mem>& c) {
  const lif_op::QconvLifKernel<Mem>& kernel = lif_op::QconvLifFor<Mem>(target, c.layer);
  const lif_op::QconvShape& s = c.layer.shape;
  QconvLifLayer constants = c.layer;  // packed without sizes, as at the creation of a session
  constants.shape.batch = constants.shape.in_height = constants.shape.in_width = 0;
  constants.shape.out_height = constants.shape.out_width = 0;
  const Aligned packed(kernel.packed_bytes(constants));
  kernel.pack(constants, packed.data());
  const Aligned scratch(kernel.scratch_bytes(c.layer));
  Result<Mem> result{{}, c.mem};
  std::vector<std::uint32_t> previous = c.spike_prev;
  const void* x = c.layer.packed_x ? static_cast<const void*>(c.spikes.data())
                                   : static_cast<const void*>(c.counts.data());
  for (int step = 0; step < kSteps; ++step) {
    result.spike.assign(Size(s.batch * s.out_height * s.out_width * WordsFor(s.out_channels)), ~0U);
    std::vector<Mem> old = result.mem;
    const lif_op::QconvLifArgs<Mem> args{c.layer,
                                         packed.data(),
                                         x,
                                         previous.empty() ? nullptr : previous.data(),
                                         c.in_place ? result.mem.data() : old.data(),
                                         result.spike.data(),
                                         result.mem.data()};
    kernel.compute(args, {c.cut, s.batch * s.out_height}, scratch.data());
    kernel.compute(args, {0, c.cut}, scratch.data());
    if (!previous.empty()) previous = result.spike;
  }
  return result;
}

template <class Mem>
void Check(Input& input) {
  static const std::vector<Target> targets = lif_op::SupportedTargets();
  Case<Mem> c;
  if (!Read(input, &c)) return;
  const Result<Mem> expected = Run(Target::kScalar, c);
  for (const Target target : targets) {
    Demand(Run(target, c) == expected, "the fused layer differs from the scalar target's");
  }
}

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input input(data, size);
  if (input.Flag()) {
    Check<std::int8_t>(input);
  } else {
    Check<std::int16_t>(input);
  }
  return 0;
}
