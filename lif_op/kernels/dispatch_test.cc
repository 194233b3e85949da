// Which target is used, and what happens when one is asked for that cannot be had.
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "kernels/testing.h"
#include "lif_op/lif.h"
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
  for (const char* name : {"avx2", "avx512vnni"}) {
    bool supported = false;
    for (const Target target : SupportedTargets())
      supported |= TargetName(target) == std::string(name);
    if (supported) continue;
    setenv(kVariable, name, 1);
    refused("does not run on this machine");
  }
  unsetenv(kVariable);
}

// Every target has kernels of its own.
void TestDistinct() {
  for (const Target a : SupportedTargets()) {
    for (const Target b : SupportedTargets()) {
      CHECK((LifFor(a) == LifFor(b)) == (a == b), TargetName(a));
    }
  }
}

}  // namespace
}  // namespace lif_op

int main() {
  lif_op::TestSupported();
  lif_op::TestForced();
  lif_op::TestRefused();
  lif_op::TestDistinct();
  return lif_op::testing::Report("dispatch_test");
}
