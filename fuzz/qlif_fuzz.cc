// The integer neuron: any accumulator, membrane and threshold, every legal decay and shift; every
// target against the definition in 64 bits.
#include <algorithm>
#include <limits>

#include "fuzz/input.h"
#include "lif_op/qlif.h"

namespace {

using fuzz::Demand;
using fuzz::Input;
using lif_op::QlifArgs;
using lif_op::Target;

template <class Mem>
struct Case {
  lif_op::ChannelLayout layout{};
  lif_op::Reset reset{};
  int frac_bits = 0;
  std::int64_t cut = 0;  // the work is done in two pieces, the second one first
  bool in_place = false;
  std::vector<std::int32_t> decay, threshold, acc;
  std::vector<Mem> mem;
};

template <class Mem>
struct Result {
  std::vector<std::uint8_t> spike;
  std::vector<Mem> mem;

  bool operator==(const Result& other) const { return spike == other.spike && mem == other.mem; }
};

template <class Mem>
Case<Mem> Read(Input& input) {
  Case<Mem> c;
  const std::int64_t batch = input.Int(0, 2);
  c.layout.channels = input.Int(1, 5);
  c.layout.inner = input.Int(1, 100);
  c.layout.size = batch * c.layout.channels * c.layout.inner;
  c.reset = static_cast<lif_op::Reset>(input.Int(0, 2));
  c.frac_bits = static_cast<int>(input.Int(lif_op::kMinFracBits, 8 * sizeof(Mem) - 1));
  c.in_place = input.Flag();
  c.cut = c.layout.size * input.Int(0, 255) / 255;
  const bool small = input.Flag();  // accumulators of a network, else of any size
  c.decay = input.Vector<std::int32_t>(c.layout.channels);
  for (std::int32_t& decay : c.decay) decay &= 511;
  for (std::int32_t& decay : c.decay) decay = std::min(decay, lif_op::kDecayOne);
  c.threshold = input.Vector<std::int32_t>(c.layout.channels);
  c.acc = input.Vector<std::int32_t>(c.layout.size);
  if (small) {
    for (std::int32_t& acc : c.acc) acc %= 4096;
    for (std::int32_t& threshold : c.threshold) threshold %= 4096;
  }
  c.mem = input.Vector<Mem>(c.layout.size);
  return c;
}

std::int64_t Floor(std::int64_t value, int shift) {
  const std::int64_t unit = std::int64_t{1} << shift;
  return value >= 0 ? value / unit : -((-value + unit - 1) / unit);
}

template <class Mem>
Result<Mem> Definition(const Case<Mem>& c) {
  constexpr std::int64_t kLo = std::numeric_limits<Mem>::min();
  constexpr std::int64_t kHi = std::numeric_limits<Mem>::max();
  Result<Mem> result{std::vector<std::uint8_t>(c.mem.size()), c.mem};
  for (std::size_t i = 0; i < c.mem.size(); ++i) {
    const std::size_t channel = i / fuzz::Size(c.layout.inner) % fuzz::Size(c.layout.channels);
    const std::int64_t acc = c.acc[i];
    const int f = c.frac_bits;
    std::int64_t current = 0;
    if (f >= 0) {
      const std::int64_t unit = std::int64_t{1} << f;
      current = std::clamp(acc, Floor(kLo, f), Floor(kHi, f)) * unit;
    } else {
      current = std::clamp(Floor(acc + (std::int64_t{1} << (-f - 1)), -f), kLo, kHi);
    }
    const std::int64_t u =
        std::clamp(c.mem[i] * std::int64_t{c.decay[channel]} / 256 + current, kLo, kHi);
    const std::int64_t threshold = c.threshold[channel];
    result.spike[i] = u > threshold;
    std::int64_t mem = u;
    if (u > threshold && c.reset == lif_op::Reset::kZero) mem = 0;
    if (u > threshold && c.reset == lif_op::Reset::kSubtract) {
      mem = std::clamp(u - threshold, kLo, kHi);
    }
    result.mem[i] = static_cast<Mem>(mem);
  }
  return result;
}

template <class Mem>
Result<Mem> Run(Target target, const Case<Mem>& c) {
  Result<Mem> result{std::vector<std::uint8_t>(c.mem.size()), c.mem};
  const QlifArgs<Mem> args{c.acc.data(),
                           c.in_place ? result.mem.data() : c.mem.data(),
                           c.decay.data(),
                           c.threshold.data(),
                           result.spike.data(),
                           result.mem.data(),
                           c.layout,
                           c.frac_bits,
                           c.reset};
  const auto function = lif_op::QlifFor<Mem>(target);
  function(args, {c.cut, c.layout.size});
  function(args, {0, c.cut});
  return result;
}

template <class Mem>
void Check(Input& input) {
  static const std::vector<Target> targets = lif_op::SupportedTargets();
  const Case<Mem> c = Read<Mem>(input);
  const Result<Mem> expected = Definition(c);
  for (const Target target : targets) {
    Demand(Run(target, c) == expected, "the neuron differs from its definition");
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
