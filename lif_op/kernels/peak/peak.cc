// Which roofs this CPU has. Apart from the dispatch of kernels, since some of these instructions
// belong to no kernel: fused multiply-adds would round differently.
#include "lif_op/peak.h"

#include "kernels/peak/peak_contract.h"
#include "lif_op/target.h"

namespace lif_op {
namespace {

bool Runs(Target target) {
  for (const Target supported : SupportedTargets()) {
    if (supported == target) return true;
  }
  return false;
}

#ifdef LIF_OP_X86
bool HasFma() { return Runs(Target::kAvx2) && __builtin_cpu_supports("fma") != 0; }
#endif

std::vector<Peak> FindPeaks() {
  std::vector<Peak> peaks{
      {"imul, add", "scalar", "int32", scalar::kIntegerMacs, scalar::IntegerPeak}};
#ifdef LIF_OP_X86
  if (HasFma()) {
    peaks.push_back({"vfmadd231ps ymm", "avx2", "float32", avx2::kFloatMacs, avx2::FloatPeak});
  }
  if (Runs(Target::kAvx2)) {
    peaks.push_back({"vpmaddubsw, vpmaddwd, vpaddd", "avx2", "uint8 x int8", avx2::kIntegerMacs,
                     avx2::IntegerPeak});
  }
  if (Runs(Target::kAvx512Vnni)) {
    peaks.push_back({"vfmadd231ps zmm", "avx512vnni", "float32", avx512vnni::kFloatMacs,
                     avx512vnni::FloatPeak});
    peaks.push_back({"vpdpbusd", "avx512vnni", "uint8 x int8", avx512vnni::kIntegerMacs,
                     avx512vnni::IntegerPeak});
  }
  if (Runs(Target::kAmx)) {
    peaks.push_back({"tdpbusd", "amx", "uint8 x int8", amx::kIntegerMacs, amx::IntegerPeak});
  }
#endif
#ifdef LIF_OP_ARM
  if (Runs(Target::kNeon)) {
    peaks.push_back({"fmla", "neon", "float32", neon::kFloatMacs, neon::FloatPeak});
    peaks.push_back({"smull, sadalp", "neon", "int8", neon::kIntegerMacs, neon::IntegerPeak});
  }
  if (Runs(Target::kNeonDot)) {
    peaks.push_back({"sdot", "neondot", "int8", neondot::kIntegerMacs, neondot::IntegerPeak});
  }
#endif
  return peaks;
}

using StreamFunction = void (*)(std::int16_t* mem, std::int64_t count);

StreamFunction FindStream() {
#ifdef LIF_OP_X86
  if (Runs(Target::kAvx512Vnni)) return avx512vnni::Stream;
  if (Runs(Target::kAvx2)) return avx2::Stream;
#endif
  return scalar::Stream;
}

}  // namespace

// Both are found once: asking a virtual processor what it can do takes longer than a short loop.
const std::vector<Peak>& PeaksHere() {
  static const std::vector<Peak> peaks = FindPeaks();
  return peaks;
}

void StreamMembranes(std::int16_t* mem, std::int64_t count) {
  static const StreamFunction stream = FindStream();
  stream(mem, count);
}

}  // namespace lif_op
