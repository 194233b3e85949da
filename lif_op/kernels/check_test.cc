// What callers may hand to the kernels, and what they are told when they may not.
#include "lif_op/check.h"

#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>

#include "kernels/testing.h"

namespace lif_op {
namespace {

template <class Body>
void Refused(const char* text, Body body) {
  CHECK(testing::Throws<std::invalid_argument>(text, body), text);
}

void TestReset() {
  CHECK(ResetFromName("zero") == Reset::kZero, "zero");
  CHECK(ResetFromName("subtract") == Reset::kSubtract, "subtract");
  CHECK(ResetFromName("none") == Reset::kNone, "none");
  Refused("attribute 'reset' must be zero, subtract or none, got 'Zero'",
          [] { ResetFromName("Zero"); });
}

void TestNeuron() {
  const ChannelLayout layout = CheckNeuron({"acc", {2, 3, 4, 5}}, {"mem", {2, 3, 4, 5}});
  CHECK(layout.channels == 3 && layout.inner == 20 && layout.size == 120, "rank 4");
  CHECK(CheckNeuron({"acc", {2, 3}}, {"mem", {2, 3}}).inner == 1, "rank 2");
  CHECK(CheckNeuron({"acc", {0, 3, 4}}, {"mem", {0, 3, 4}}).size == 0, "empty");
  Refused("input 'mem' must have shape [N, C, ...], got [7]",
          [] { CheckNeuron({"acc", {7}}, {"mem", {7}}); });
  Refused("input 'acc' and input 'mem' must have the same shape, got [1, 3] and [3, 1]",
          [] { CheckNeuron({"acc", {1, 3}}, {"mem", {3, 1}}); });
  // Their product is 2^64, which is 0 in 64 bits.
  const Dims huge{std::int64_t{1} << 32, std::int64_t{1} << 32};
  Refused("input 'mem' is too large: its dimensions are [4294967296, 4294967296]",
          [&] { CheckNeuron({"acc", huge}, {"mem", huge}); });
  CHECK(WordsFor(std::numeric_limits<std::int64_t>::max()) == std::int64_t{1} << 58, "words");
}

void TestParameter() {
  CheckParameter({"beta", {3}}, 3, false);
  CheckParameter({"beta", {3, 1, 1}}, 3, true);
  Refused("input 'beta' must have shape [3], one value per channel, got [3, 1, 1]",
          [] { CheckParameter({"beta", {3, 1, 1}}, 3, false); });
  Refused("input 'beta' must have shape [3] or [3, 1, 1], one value per channel, got []",
          [] { CheckParameter({"beta", {}}, 3, true); });
}

void TestIntegers() {
  const std::int32_t good[] = {0, 256};
  const std::int32_t high[] = {0, 257};
  const std::int32_t low[] = {-1, 0};
  CheckDecay(good, 2);
  Refused("input 'decay' must hold values from 0 to 256, got 257 for channel 1",
          [&] { CheckDecay(high, 2); });
  Refused("got -1 for channel 0", [&] { CheckDecay(low, 2); });
  CHECK(CheckFracBits(-30, 16) == -30, "lowest");
  CHECK(CheckFracBits(7, 8) == 7, "highest");
  Refused("attribute 'frac_bits' must be from -30 to 7 for a membrane of 8 bits, got 8",
          [] { CheckFracBits(8, 8); });
  Refused("got -31", [] { CheckFracBits(-31, 16); });
}

void TestQconv() {
  const Dims x = {1, 2, 5, 6};
  const Dims w = {3, 2, 3, 3};
  const QconvShape shape = CheckQconv(x, w, {3}, {2, 1}, {1, 0, 1, 2});
  CHECK(shape.out_height == 3 && shape.out_width == 6, "output size");
  Refused("attribute 'strides' must hold 2 integers, got [1]",
          [&] { CheckQconv(x, w, {3}, {1}, {0, 0, 0, 0}); });
  Refused("attribute 'strides' must hold integers from 1 to 65536, got [0, 1]",
          [&] { CheckQconv(x, w, {3}, {0, 1}, {0, 0, 0, 0}); });
  Refused("attribute 'pads' must hold integers from 0 to 65536, got [0, 0, -1, 0]",
          [&] { CheckQconv(x, w, {3}, {1, 1}, {0, 0, -1, 0}); });
  Refused("input 'x' must have shape [N, Cin, H, W], got [1, 2, 5]",
          [&] { CheckQconv({1, 2, 5}, w, {3}, {1, 1}, {0, 0, 0, 0}); });
  Refused("input 'weight' must have shape [Cout, Cin, kh, kw], got [3, 2]",
          [&] { CheckQconv(x, {3, 2}, {3}, {1, 1}, {0, 0, 0, 0}); });
  Refused("input 'weight' is for 4 input channels, input 'x' has 2",
          [&] { CheckQconv(x, {3, 4, 3, 3}, {3}, {1, 1}, {0, 0, 0, 0}); });
  Refused("input 'bias' must have shape [3], one value per output channel, got [1]",
          [&] { CheckQconv(x, w, {1}, {1, 1}, {0, 0, 0, 0}); });
  Refused("its padded height 2 is less than the kernel's 3",
          [&] { CheckQconv({1, 2, 2, 6}, w, {3}, {1, 1}, {0, 0, 0, 0}); });
  Refused("input 'weight' has an empty kernel",
          [&] { CheckQconv(x, {3, 2, 0, 3}, {3}, {1, 1}, {0, 0, 0, 0}); });
}

}  // namespace
}  // namespace lif_op

int main() {
  lif_op::TestReset();
  lif_op::TestNeuron();
  lif_op::TestParameter();
  lif_op::TestIntegers();
  lif_op::TestQconv();
  return lif_op::testing::Report("check_test");
}
