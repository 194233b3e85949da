// The float neuron and its foreign sibling: any numbers, shapes and pieces of work; every target
// against the scalar one.
#include <cmath>

#include "fuzz/input.h"
#include "lif_op/lif.h"

namespace {

using fuzz::Demand;
using fuzz::Input;
using fuzz::Size;
using lif_op::LifArgs;
using lif_op::LifFunction;
using lif_op::Target;

struct Case {
  lif_op::ChannelLayout layout{};
  lif_op::Reset reset{};
  std::int64_t cut = 0;  // the work is done in two pieces, the second one first
  bool in_place = false;
  std::vector<float> beta, threshold, current, mem;
};

struct Result {
  std::vector<float> spike, mem;
};

Case Read(Input& input) {
  Case c;
  const std::int64_t batch = input.Int(0, 2);
  c.layout.channels = input.Int(1, 5);
  c.layout.inner = input.Int(1, 70);
  c.layout.size = batch * c.layout.channels * c.layout.inner;
  c.reset = static_cast<lif_op::Reset>(input.Int(0, 2));
  c.in_place = input.Flag();
  c.cut = c.layout.size * input.Int(0, 255) / 255;
  c.beta = input.Vector<float>(c.layout.channels);
  c.threshold = input.Vector<float>(c.layout.channels);
  c.current = input.Vector<float>(c.layout.size);
  c.mem = input.Vector<float>(c.layout.size);
  return c;
}

Result Run(LifFunction function, const Case& c) {
  Result result{std::vector<float>(c.mem.size()), c.mem};
  const float* mem = c.in_place ? result.mem.data() : c.mem.data();
  const LifArgs args{
      c.current.data(),  mem,      c.beta.data(), c.threshold.data(), result.spike.data(),
      result.mem.data(), c.layout, c.reset};
  function(args, {c.cut, c.layout.size});
  function(args, {0, c.cut});
  return result;
}

// Bit for bit, but for what a NaN carries.
bool Same(const std::vector<float>& a, const std::vector<float>& b) {
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (std::isnan(a[i]) && std::isnan(b[i])) continue;
    if (!(a[i] == b[i]) || std::signbit(a[i]) != std::signbit(b[i])) return false;
  }
  return true;
}

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::vector<Target> targets = lif_op::SupportedTargets();
  Input input(data, size);
  Case c = Read(input);
  for (const bool foreign : {false, true}) {
    if (foreign) c.reset = lif_op::Reset::kZero;
    const auto function = foreign ? lif_op::ForeignLifFor : lif_op::LifFor;
    const Result expected = Run(function(Target::kScalar), c);
    for (const Target target : targets) {
      const Result got = Run(function(target), c);
      Demand(Same(got.spike, expected.spike), "spikes differ from the scalar target's");
      Demand(Same(got.mem, expected.mem), "membranes differ from the scalar target's");
    }
  }
  return 0;
}
