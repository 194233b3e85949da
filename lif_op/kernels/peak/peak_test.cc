// The roofs run, the stream changes every membrane and nothing beside it.
#include "lif_op/peak.h"

#include <string>
#include <vector>

#include "kernels/peak/peak_contract.h"
#include "kernels/testing.h"
#include "lif_op/target.h"

namespace lif_op {
namespace {

void TestPeaks() {
  const std::vector<Peak>& peaks = PeaksHere();
  CHECK(!peaks.empty() && peaks.front().target == std::string("scalar"), "scalar is always there");
  for (const Peak& peak : peaks) {
    CHECK(peak.macs > 0, peak.instruction);
    peak.run(0);
    peak.run(3);
  }
}

using Stream = void (*)(std::int16_t* mem, std::int64_t count);

void TestStream(Stream stream, const char* name) {
  for (const std::int64_t count : {0, 1, 15, 16, 33, 100}) {
    std::vector<std::int16_t> mem(static_cast<std::size_t>(count) + 2, 6);
    stream(mem.data() + 1, count);
    CHECK(mem.front() == 6 && mem.back() == 6, name);
    for (std::size_t i = 1; i + 1 < mem.size(); ++i) CHECK(mem[i] == 7, name);
  }
}

void TestStreams() {
  TestStream(StreamMembranes, "chosen");
  TestStream(scalar::Stream, "scalar");
#ifdef __x86_64__
  for (const Target target : SupportedTargets()) {
    if (target == Target::kAvx2) TestStream(avx2::Stream, "avx2");
    if (target == Target::kAvx512Vnni) TestStream(avx512vnni::Stream, "avx512vnni");
  }
#endif
}

}  // namespace
}  // namespace lif_op

int main() {
  lif_op::TestPeaks();
  lif_op::TestStreams();
  return lif_op::testing::Report("peak_test");
}
