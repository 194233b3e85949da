// Which target is used, and what happens when one is asked for that cannot be had.
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "kernels/testing.h"
#include "lif_op/lif.h"
#include "lif_op/qconv_lif.h"
#include "lif_op/target.h"

namespace lif_op {
namespace {

constexpr char kVariable[] = "LIF_OP_TARGET";

void TestSupported() {
  const std::vector<Target> targets = SupportedTargets();
  CHECK(!targets.empty() && targets.front() == Target::kScalar, "scalar is always there");
  for (const Target target : targets) {
    CHECK(TargetFromName(TargetName(target)) == target, TargetName(target));
  }
}

void TestForced() {
  unsetenv(kVariable);
  CHECK(ActiveTarget() == SupportedTargets().back(), "fastest by default");
  setenv(kVariable, "", 1);
  CHECK(ActiveTarget() == SupportedTargets().back(), "empty is not set");
  for (const Target target : SupportedTargets()) {
    setenv(kVariable, TargetName(target), 1);
    CHECK(ActiveTarget() == target, TargetName(target));
  }
}

void TestRefused() {
  setenv(kVariable, "AVX2", 1);
  const auto refused = [](const char* text) {
    CHECK(testing::Throws<std::invalid_argument>(text, [] { ActiveTarget(); }), text);
  };
  refused("LIF_OP_TARGET");
  refused("there is no kernel target 'AVX2'");
  refused("this machine can run: scalar");
  for (const char* name : {"neon", "neondot", "avx2", "avx512vnni", "avx512vbmi", "amx"}) {
    bool supported = false;
    for (const Target target : SupportedTargets())
      supported |= TargetName(target) == std::string(name);
    if (supported) continue;
    setenv(kVariable, name, 1);
    refused("does not run on this machine");
  }
  unsetenv(kVariable);
}

// Every target has a kernel of its own: for the float neuron, or for a layer of 32 channels.
void TestDistinct() {
  const std::vector<std::int32_t> threshold(32, 1);
  const std::vector<std::int8_t> weight(32 * 32 * 9, 1);
  QconvLifLayer layer{};
  layer.shape = {1, 32, 8, 8, 32, 8, 8, 3, 3, 1, 1, 1, 1};
  layer.packed_x = true;
  layer.threshold = threshold.data();
  layer.weight = weight.data();
  const auto kernel = [&layer](Target target) { return &QconvLifFor<std::int16_t>(target, layer); };
  for (const Target a : SupportedTargets()) {
    for (const Target b : SupportedTargets()) {
      const bool same = LifFor(a) == LifFor(b) && kernel(a) == kernel(b);
      CHECK(same == (a == b), TargetName(a));
    }
  }
}

// Layers of sizes that the fast kernels would take too much memory for.
void TestUnusual() {
  const std::vector<std::int32_t> threshold(1 << 16, 1);
  const std::vector<std::int8_t> weight(1 << 16, 1);
  QconvLifLayer usual{};
  usual.shape = {1, 8, 8, 8, 4, 8, 8, 3, 3, 1, 1, 1, 1};
  usual.packed_x = true;
  usual.threshold = threshold.data();
  usual.weight = weight.data();
  const auto is_scalar = [](const QconvLifLayer& layer) {
    const auto* kernel = &QconvLifFor<std::int16_t>(SupportedTargets().back(), layer);
    return kernel == &QconvLifFor<std::int16_t>(Target::kScalar, layer);
  };
  CHECK(is_scalar(usual) == (SupportedTargets().size() == 1), "usual");
  const auto unusual = [&](const char* what, auto change) {
    QconvLifLayer layer = usual;
    change(&layer);
    CHECK(is_scalar(layer), what);
  };
  unusual("stride", [](QconvLifLayer* l) { l->shape.stride_width = 17; });
  unusual("kernel", [](QconvLifLayer* l) { l->shape.kernel_height = 65; });
  unusual("own kernel", [](QconvLifLayer* l) { l->rec_kernel_width = 65; });
  unusual("channels", [](QconvLifLayer* l) { l->shape.in_channels = 1 << 14; });
  unusual("own channels", [](QconvLifLayer* l) { l->shape.out_channels = 1 << 16; });
}

}  // namespace
}  // namespace lif_op

int main() {
  lif_op::TestSupported();
  lif_op::TestForced();
  lif_op::TestRefused();
  lif_op::TestDistinct();
  lif_op::TestUnusual();
  return lif_op::testing::Report("dispatch_test");
}
