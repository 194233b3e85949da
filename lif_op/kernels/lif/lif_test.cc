// The float neuron: the reference against cases worked by hand, every target against the reference.
// Tensors lie against forbidden pages.
#include "lif_op/lif.h"

#include <cfloat>
#include <cmath>
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

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct WorkedCase {
  const char* what;
  float mem, current, beta, threshold;
  Reset reset;
  float spike, mem_out;
  float foreign_spike, foreign_mem_out;
};

const WorkedCase kWorked[] = {
    {"silent", 1.0f, 0.25f, 0.5f, 1.0f, Reset::kZero, 0, 0.75f, 0, 0.75f},
    {"fires, zero", 1.0f, 1.0f, 0.5f, 1.0f, Reset::kZero, 1, 0.0f, 1, 0.0f},
    {"fires, subtract", 1.0f, 1.0f, 0.5f, 1.0f, Reset::kSubtract, 1, 0.5f, 1, 0.0f},
    {"fires, none", 1.0f, 1.0f, 0.5f, 1.0f, Reset::kNone, 1, 1.5f, 1, 0.0f},
    {"tie", 1.0f, 0.5f, 0.5f, 1.0f, Reset::kZero, 0, 1.0f, 1, 0.0f},
    {"tie at zero", 0.0f, 0.0f, 0.5f, 0.0f, Reset::kZero, 0, 0.0f, 1, 0.0f},
    {"negative", -2.0f, 0.5f, 0.5f, 1.0f, Reset::kZero, 0, -0.5f, 0, -0.5f},
    {"never", 3.0f, 0.0f, 1.0f, kInfinity, Reset::kSubtract, 0, 3.0f, 0, 3.0f},
    {"denormal", FLT_MIN, 0.0f, 0.5f, 1.0f, Reset::kZero, 0, 0.0f, 0, 0.0f},
    {"negative denormal", -FLT_MIN, 0.0f, 0.5f, 1.0f, Reset::kNone, 0, 0.0f, 0, 0.0f},
    {"least normal", FLT_MIN, 0.0f, 1.0f, 1.0f, Reset::kSubtract, 0, FLT_MIN, 0, FLT_MIN},
    // 1 + 2^-12 squared needs 25 bits: a fused multiply-add would keep the last one.
    {"two roundings", 1.000244140625f, -1.00048828125f, 1.000244140625f, 1.0f, Reset::kZero, 0,
     0.0f, 0, 0.0f},
};

void TestWorkedCases() {
  for (const WorkedCase& c : kWorked) {
    float spike = -1;
    float mem_out = -1;
    const LifArgs args{&c.current, &c.mem,   &c.beta,   &c.threshold,
                       &spike,     &mem_out, {1, 1, 1}, c.reset};
    LifFor(Target::kScalar)(args, {0, 1});
    CHECK(spike == c.spike && mem_out == c.mem_out, c.what);
    ForeignLifFor(Target::kScalar)(args, {0, 1});
    CHECK(spike == c.foreign_spike && mem_out == c.foreign_mem_out,
          std::string("foreign, ") + c.what);
  }
}

struct Shape {
  std::int64_t batch, channels, inner;
};

// Rank 2 (inner 1), sizes around the widths of vectors, more than one batch.
const Shape kShapes[] = {{1, 1, 1},  {3, 5, 1},   {2, 3, 7},  {1, 2, 8},   {1, 2, 15},
                         {2, 3, 16}, {1, 3, 17},  {2, 2, 31}, {1, 2, 33},  {2, 3, 64},
                         {1, 4, 99}, {1, 2, 250}, {0, 3, 5},  {1, 3, 1025}};

struct Data {
  std::vector<float> current, mem, beta, threshold;
};

Data MakeData(const Shape& shape, Random& random) {
  const std::int64_t size = shape.batch * shape.channels * shape.inner;
  Data data{random.Floats(size), random.Floats(size), random.Floats(shape.channels),
            random.Floats(shape.channels)};
  for (std::size_t i = 0; i < data.mem.size(); ++i) {
    const std::int64_t kind = random.Int(0, 15);
    if (kind == 0) data.current[i] = kNan;
    if (kind == 1) data.current[i] = -kInfinity;
    if (kind == 3) {
      data.mem[i] *= FLT_MIN;
      data.current[i] = 0.0f;
    }
    // A tie: the membrane does not matter and the current is the threshold.
    const auto channel = (static_cast<std::int64_t>(i) / shape.inner) % shape.channels;
    if (kind == 2) {
      data.mem[i] = 0.0f;
      data.current[i] = data.threshold[static_cast<std::size_t>(channel)];
    }
  }
  return data;
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (std::isnan(a[i]) != std::isnan(b[i])) return false;
    if (!std::isnan(a[i]) && (a[i] != b[i] || std::signbit(a[i]) != std::signbit(b[i]))) {
      return false;
    }
  }
  return a.size() == b.size();
}

struct Result {
  std::vector<float> spike, mem_out;
};

struct How {
  std::int64_t parts;
  bool in_place;
  Guard guard;
};

Result Run(LifFunction function, const Shape& shape, const Data& data, Reset reset,
           const How& how) {
  const Guarded<float> current(data.current, how.guard);
  const Guarded<float> mem(data.mem, how.guard);
  const Guarded<float> beta(data.beta, how.guard);
  const Guarded<float> threshold(data.threshold, how.guard);
  const Guarded<float> spike(data.mem.size(), how.guard);
  const Guarded<float> other_mem(data.mem.size(), how.guard);
  float* const mem_out = how.in_place ? mem.data() : other_mem.data();
  const auto size = static_cast<std::int64_t>(data.mem.size());
  const LifArgs args{current.data(),
                     mem.data(),
                     beta.data(),
                     threshold.data(),
                     spike.data(),
                     mem_out,
                     {shape.channels, shape.inner, size},
                     reset};
  InParts(size, how.parts, [&](Range range) { function(args, range); });
  return {spike.Values(), how.in_place ? mem.Values() : other_mem.Values()};
}

const How kHow[] = {{1, false, Guard::kBehind},
                    {3, false, Guard::kBefore},
                    {1, true, Guard::kBefore},
                    {3, true, Guard::kBehind}};

void TestTargets() {
  Random random(1);
  for (const Shape& shape : kShapes) {
    const Data data = MakeData(shape, random);
    for (const Reset reset : {Reset::kZero, Reset::kSubtract, Reset::kNone}) {
      for (const bool foreign : {false, true}) {
        const auto function = [&](Target t) { return foreign ? ForeignLifFor(t) : LifFor(t); };
        const Result expected =
            Run(function(Target::kScalar), shape, data, reset, {1, false, Guard::kBehind});
        for (const Target target : SupportedTargets()) {
          for (const How& how : kHow) {
            const Result got = Run(function(target), shape, data, reset, how);
            const std::string where = std::string(TargetName(target)) + " inner " +
                                      std::to_string(shape.inner) + " parts " +
                                      std::to_string(how.parts);
            CHECK(SameBits(got.spike, expected.spike), where);
            CHECK(SameBits(got.mem_out, expected.mem_out), where);
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace lif_op

int main() {
  lif_op::TestWorkedCases();
  lif_op::TestTargets();
  return lif_op::testing::Report("lif_test");
}
