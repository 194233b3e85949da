// Time of one step of 32 channels of 256x256 integer neurons, on one thread.
#include <limits>
#include <string>
#include <vector>

#include "kernels/bench.h"
#include "kernels/testing.h"
#include "lif_op/qlif.h"

namespace lif_op {
namespace {

template <class Mem>
void Bench(int frac_bits) {
  constexpr ChannelLayout kLayout{32, 256 * 256, 32 * 256 * 256};
  testing::Random random(1);
  const auto acc = random.Vector<std::int32_t>(kLayout.size, -500, 500);
  const std::vector<std::int32_t> decay(32, 230);
  const std::vector<std::int32_t> threshold(32, std::numeric_limits<Mem>::max() / 8);
  auto mem = random.Vector<Mem>(kLayout.size, -100, 100);
  std::vector<std::uint8_t> spike(mem.size());
  const QlifArgs<Mem> args{acc.data(), mem.data(), decay.data(), threshold.data(), spike.data(),
                           mem.data(), kLayout,    frac_bits,    Reset::kZero};
  std::vector<bench::Candidate> candidates;
  for (const Target target : SupportedTargets()) {
    candidates.push_back({target, [&, target] { QlifFor<Mem>(target)(args, {0, kLayout.size}); }});
  }
  bench::Compare("qlif int" + std::to_string(8 * sizeof(Mem)) + " 32x256x256", candidates);
}

}  // namespace
}  // namespace lif_op

int main() {
  lif_op::Bench<std::int16_t>(0);
  lif_op::Bench<std::int8_t>(-3);
}
