// Time of one step of 32 channels of 256x256 float neurons, on one thread.
#include <vector>

#include "kernels/bench.h"
#include "kernels/testing.h"
#include "lif_op/lif.h"

int main() {
  using namespace lif_op;
  constexpr ChannelLayout kLayout{32, 256 * 256, 32 * 256 * 256};
  testing::Random random(1);
  const std::vector<float> current = random.Floats(kLayout.size);
  const std::vector<float> beta(32, 0.9f);
  const std::vector<float> threshold(32, 1.0f);
  std::vector<float> mem = random.Floats(kLayout.size);
  std::vector<float> spike(mem.size());
  const LifArgs args{current.data(), mem.data(), beta.data(), threshold.data(),
                     spike.data(),   mem.data(), kLayout,     Reset::kZero};
  std::vector<bench::Candidate> candidates;
  for (const Target target : SupportedTargets()) {
    candidates.push_back({target, [&, target] { LifFor(target)(args, {0, kLayout.size}); }});
  }
  bench::Compare("lif 32x256x256", candidates);
}
