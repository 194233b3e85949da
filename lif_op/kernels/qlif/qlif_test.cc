// The integer neuron: the reference against the definition spelled out in wide integers, every
// target against the reference.
#include "lif_op/qlif.h"

#include <algorithm>
#include <limits>
#include <string>
#include <vector>

#include "kernels/guarded.h"
#include "kernels/testing.h"

namespace lif_op {
namespace {

using testing::Guard;
using testing::Guarded;
using testing::InParts;
using testing::Random;

constexpr std::int32_t kIntMin = std::numeric_limits<std::int32_t>::min();
constexpr std::int32_t kIntMax = std::numeric_limits<std::int32_t>::max();
constexpr Reset kResets[] = {Reset::kZero, Reset::kSubtract, Reset::kNone};

std::int64_t FloorDiv(std::int64_t a, std::int64_t b) {
  return a / b - (a % b != 0 && (a < 0) != (b < 0) ? 1 : 0);
}

struct Neuron {
  std::int64_t spike, mem;
};

// The definition, word for word and without a thought for speed.
template <class Mem>
Neuron Definition(std::int64_t acc, std::int64_t mem, std::int64_t decay, std::int64_t threshold,
                  int f, Reset reset) {
  const std::int64_t lo = std::numeric_limits<Mem>::min();
  const std::int64_t hi = std::numeric_limits<Mem>::max();
  std::int64_t current;
  if (f >= 0) {
    const std::int64_t scale = std::int64_t{1} << f;
    const std::int64_t span = (hi + 1) / scale;
    current = std::clamp(acc, -span, span - 1) * scale;
  } else {
    const std::int64_t scale = std::int64_t{1} << -f;
    current = std::clamp(FloorDiv(acc + scale / 2, scale), lo, hi);
  }
  const std::int64_t u = std::clamp(mem * decay / 256 + current, lo, hi);
  const bool fires = u > threshold;
  if (!fires || reset == Reset::kNone) return {fires, u};
  return {1, reset == Reset::kZero ? 0 : std::clamp(u - threshold, lo, hi)};
}

template <class Mem>
struct Data {
  std::int64_t channels, inner;
  std::vector<std::int32_t> acc;
  std::vector<Mem> mem;
  std::vector<std::int32_t> decay, threshold;
};

template <class Mem>
struct Result {
  std::vector<std::uint8_t> spike;
  std::vector<Mem> mem_out;

  bool operator==(const Result& other) const {
    return spike == other.spike && mem_out == other.mem_out;
  }
};

template <class Mem>
Result<Mem> Run(Target target, const Data<Mem>& data, int frac_bits, Reset reset,
                std::int64_t parts, bool in_place) {
  const Guard guard = in_place ? Guard::kBefore : Guard::kBehind;
  const Guarded<std::int32_t> acc(data.acc, guard);
  const Guarded<Mem> mem(data.mem, guard);
  const Guarded<std::int32_t> decay(data.decay, guard);
  const Guarded<std::int32_t> threshold(data.threshold, guard);
  const Guarded<std::uint8_t> spike(data.mem.size(), guard);
  const Guarded<Mem> other_mem(data.mem.size(), guard);
  const auto size = static_cast<std::int64_t>(data.mem.size());
  const QlifArgs<Mem> args{acc.data(),
                           mem.data(),
                           decay.data(),
                           threshold.data(),
                           spike.data(),
                           in_place ? mem.data() : other_mem.data(),
                           {data.channels, data.inner, size},
                           frac_bits,
                           reset};
  InParts(size, parts, [&](Range range) { QlifFor<Mem>(target)(args, range); });
  return {spike.Values(), in_place ? mem.Values() : other_mem.Values()};
}

template <class Mem>
Result<Mem> Expected(const Data<Mem>& data, int frac_bits, Reset reset) {
  Result<Mem> result{{}, {}};
  for (std::size_t i = 0; i < data.mem.size(); ++i) {
    const auto c =
        (i / static_cast<std::size_t>(data.inner)) % static_cast<std::size_t>(data.channels);
    const Neuron neuron = Definition<Mem>(data.acc[i], data.mem[i], data.decay[c],
                                          data.threshold[c], frac_bits, reset);
    result.spike.push_back(static_cast<std::uint8_t>(neuron.spike));
    result.mem_out.push_back(static_cast<Mem>(neuron.mem));
  }
  return result;
}

template <class Mem>
std::string Where(Target target, const Data<Mem>& data, int frac_bits) {
  return std::string(TargetName(target)) + " mem" + std::to_string(8 * sizeof(Mem)) + " inner " +
         std::to_string(data.inner) + " frac_bits " + std::to_string(frac_bits);
}

template <class Mem>
void CheckAllTargets(const Data<Mem>& data, int frac_bits) {
  for (const Reset reset : kResets) {
    const Result<Mem> expected = Expected(data, frac_bits, reset);
    for (const Target target : SupportedTargets()) {
      for (const bool in_place : {false, true}) {
        for (const std::int64_t parts : {1, 3}) {
          CHECK(Run(target, data, frac_bits, reset, parts, in_place) == expected,
                Where(target, data, frac_bits));
        }
      }
    }
  }
}

// Accumulators near everything that matters: the ends, zero, and the clamps of every frac_bits.
std::vector<std::int32_t> EdgeAccumulators() {
  std::vector<std::int32_t> values = {kIntMin, kIntMin + 1, kIntMax - 1, kIntMax};
  for (int bit = 0; bit < 31; ++bit) {
    for (int delta = -1; delta <= 1; ++delta) {
      values.push_back((1 << bit) + delta);
      values.push_back(-(1 << bit) + delta);
      values.push_back((1 << bit) / 2 * 3 + delta);
      values.push_back(-((1 << bit) / 2 * 3) + delta);
    }
  }
  return values;
}

template <class Mem>
std::vector<Mem> EdgeMembranes() {
  const int lo = std::numeric_limits<Mem>::min();
  const int hi = std::numeric_limits<Mem>::max();
  std::vector<Mem> values;
  for (const int value : {lo, lo + 1, -3, -2, -1, 0, 1, 2, 3, hi / 2, hi - 1, hi}) {
    values.push_back(static_cast<Mem>(value));
  }
  return values;
}

template <class Mem>
std::vector<std::int32_t> EdgeThresholds() {
  const int lo = std::numeric_limits<Mem>::min();
  const int hi = std::numeric_limits<Mem>::max();
  return {kIntMin, lo - 1, lo, -1, 0, 1, hi - 1, hi, hi + 1, kIntMax};
}

// One channel per pair of a decay and a threshold, all accumulators and membranes in each.
template <class Mem>
Data<Mem> EdgeData() {
  const std::vector<std::int32_t> accumulators = EdgeAccumulators();
  const std::vector<Mem> membranes = EdgeMembranes<Mem>();
  Data<Mem> data{};
  for (const std::int32_t decay : {0, 1, 127, 128, 255, 256}) {
    for (const std::int32_t threshold : EdgeThresholds<Mem>()) {
      data.decay.push_back(decay);
      data.threshold.push_back(threshold);
      for (const Mem mem : membranes) {
        data.mem.insert(data.mem.end(), accumulators.size(), mem);
        data.acc.insert(data.acc.end(), accumulators.begin(), accumulators.end());
      }
    }
  }
  data.channels = static_cast<std::int64_t>(data.decay.size());
  data.inner = static_cast<std::int64_t>(accumulators.size() * membranes.size());
  return data;
}

template <class Mem>
void TestEdges() {
  const Data<Mem> data = EdgeData<Mem>();
  const int bits = 8 * sizeof(Mem);
  for (const int frac_bits : {kMinFracBits, -29, -4, -1, 0, 1, bits - 2, bits - 1}) {
    CheckAllTargets(data, frac_bits);
  }
}

// Every membrane with every decay, one decay per channel.
template <class Mem>
void TestDecay() {
  const int lo = std::numeric_limits<Mem>::min();
  const int hi = std::numeric_limits<Mem>::max();
  Data<Mem> data{};
  for (const std::int32_t decay : {0, 1, 2, 100, 127, 128, 129, 200, 254, 255, 256}) {
    data.decay.push_back(decay);
    data.threshold.push_back(hi);
    for (int mem = lo; mem <= hi; ++mem) data.mem.push_back(static_cast<Mem>(mem));
  }
  data.acc.assign(data.mem.size(), 0);
  data.channels = static_cast<std::int64_t>(data.decay.size());
  data.inner = hi - lo + 1;
  CheckAllTargets(data, 0);
}

struct Shape {
  std::int64_t batch, channels, inner;
};

// Rank 2 (inner 1), sizes around the widths of vectors, more than one batch.
const Shape kShapes[] = {{1, 1, 1},  {3, 5, 1},  {2, 3, 7},  {1, 2, 15}, {2, 3, 16},
                         {1, 3, 17}, {2, 2, 31}, {1, 2, 32}, {1, 2, 33}, {2, 3, 63},
                         {1, 3, 64}, {1, 2, 65}, {0, 3, 5},  {1, 4, 99}, {1, 2, 1025}};

template <class Mem>
void TestShapes() {
  Random random(2);
  const int bits = 8 * sizeof(Mem);
  for (const Shape& shape : kShapes) {
    const std::int64_t size = shape.batch * shape.channels * shape.inner;
    for (int frac_bits = kMinFracBits; frac_bits < bits; ++frac_bits) {
      // Some accumulators beyond the clamp, most of them within.
      const std::int64_t span = std::int64_t{1} << (bits - frac_bits);
      const std::int64_t range = std::min<std::int64_t>(kIntMax, std::max<std::int64_t>(8, span));
      Data<Mem> data{
          shape.channels,
          shape.inner,
          random.Vector<std::int32_t>(size, -range, range),
          random.Vector<Mem>(size, std::numeric_limits<Mem>::min(),
                             std::numeric_limits<Mem>::max()),
          random.Vector<std::int32_t>(shape.channels, 0, 256),
          random.Vector<std::int32_t>(shape.channels, 0, std::numeric_limits<Mem>::max() / 2)};
      CheckAllTargets(data, frac_bits);
    }
  }
}

}  // namespace
}  // namespace lif_op

int main() {
  lif_op::TestEdges<std::int16_t>();
  lif_op::TestEdges<std::int8_t>();
  lif_op::TestDecay<std::int16_t>();
  lif_op::TestDecay<std::int8_t>();
  lif_op::TestShapes<std::int16_t>();
  lif_op::TestShapes<std::int8_t>();
  return lif_op::testing::Report("qlif_test");
}
