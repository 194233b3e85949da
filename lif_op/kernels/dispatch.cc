// Which implementation of each kernel a target means, and which targets this CPU can run.
#if defined(LIF_OP_ARM)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include <cstdlib>
#include <stdexcept>

#if defined(LIF_OP_X86)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "kernels/lif/lif_contract.h"
#include "kernels/qconv/qconv_contract.h"
#include "kernels/qconv_lif/qconv_lif_contract.h"
#include "kernels/qconv_packed/qconv_packed_contract.h"
#include "kernels/qlif/qlif_contract.h"
#include "lif_op/target.h"

// The rows of a table of implementations that are compiled for this processor.
#if defined(LIF_OP_X86)
#define LIF_OP_IF_X86(...) __VA_ARGS__
#else
#define LIF_OP_IF_X86(...)
#endif
#if defined(LIF_OP_ARM)
#define LIF_OP_IF_ARM(...) __VA_ARGS__
#else
#define LIF_OP_IF_ARM(...)
#endif

namespace lif_op {
namespace {

constexpr char kVariable[] = "LIF_OP_TARGET";

struct TargetEntry {
  Target target;
  const char* name;
  bool (*runs_here)();
};

bool Always() { return true; }
[[maybe_unused]] bool Never() { return false; }
#ifdef LIF_OP_X86
bool HasAvx2() { return __builtin_cpu_supports("avx2") != 0; }

bool HasAvx512Vnni() {
  return __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bw") != 0 &&
         __builtin_cpu_supports("avx512vl") != 0 && __builtin_cpu_supports("avx512dq") != 0 &&
         __builtin_cpu_supports("avx512vnni") != 0;
}

bool HasAvx512Vbmi() { return HasAvx512Vnni() && __builtin_cpu_supports("avx512vbmi") != 0; }

// Linux keeps the state of the tiles for processes that ask for it, for all their threads at once.
bool MayUseTiles() {
#ifdef SYS_arch_prctl
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

// Asked once: in virtual machines cpuid takes as long as a small layer.
bool FindAmx() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (!HasAvx512Vbmi() || __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) return false;
  constexpr unsigned kTilesAndBytes = 1u << 24 | 1u << 25;  // amx_tile, amx_int8
  return (edx & kTilesAndBytes) == kTilesAndBytes && MayUseTiles();
}

bool HasAmx() {
  static const bool has = FindAmx();
  return has;
}
#else
constexpr auto HasAvx2 = Never;
constexpr auto HasAvx512Vnni = Never;
constexpr auto HasAvx512Vbmi = Never;
constexpr auto HasAmx = Never;
#endif

#ifdef LIF_OP_ARM
constexpr auto HasNeon = Always;  // part of every 64-bit Arm processor

bool HasNeonDot() { return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0; }
#else
constexpr auto HasNeon = Never;
constexpr auto HasNeonDot = Never;
#endif

// Slowest first, and in the order of the enumeration.
constexpr TargetEntry kTargets[] = {
    {Target::kScalar, "scalar", Always},
    {Target::kAvx2, "avx2", HasAvx2},
    {Target::kAvx512Vnni, "avx512vnni", HasAvx512Vnni},
    {Target::kAvx512Vbmi, "avx512vbmi", HasAvx512Vbmi},
    {Target::kAmx, "amx", HasAmx},
    {Target::kNeon, "neon", HasNeon},
    {Target::kNeonDot, "neondot", HasNeonDot},
};

// A kernel and the target it was written for.
template <class Function>
struct Implementation {
  Target target;
  Function function;
};

// The implementation of a target: its own, else that of the fastest target below it.
template <class Function, std::size_t kCount>
Function Pick(Target target, const Implementation<Function> (&implementations)[kCount]) {
  Function picked = implementations[0].function;
  for (const Implementation<Function>& candidate : implementations) {
    if (candidate.target <= target) picked = candidate.function;
  }
  return picked;
}

std::string SupportedNames() {
  std::string names;
  for (const Target target : SupportedTargets()) {
    names += (names.empty() ? "" : ", ") + std::string(TargetName(target));
  }
  return names;
}

}  // namespace

const char* TargetName(Target target) {
  for (const TargetEntry& entry : kTargets) {
    if (entry.target == target) return entry.name;
  }
  return kTargets[0].name;
}

std::vector<Target> SupportedTargets() {
  std::vector<Target> targets;
  for (const TargetEntry& entry : kTargets) {
    if (entry.runs_here()) targets.push_back(entry.target);
  }
  return targets;
}

Target TargetFromName(const std::string& name) {
  for (const TargetEntry& entry : kTargets) {
    if (name != entry.name) continue;
    if (entry.runs_here()) return entry.target;
    throw std::invalid_argument("kernel target '" + name +
                                "' does not run on this machine; it can run: " + SupportedNames());
  }
  throw std::invalid_argument("there is no kernel target '" + name +
                              "'; this machine can run: " + SupportedNames());
}

Target ActiveTarget() {
  const char* forced = std::getenv(kVariable);
  if (forced == nullptr || *forced == '\0') return SupportedTargets().back();
  try {
    return TargetFromName(forced);
  } catch (const std::invalid_argument& error) {
    throw std::invalid_argument("environment variable " + std::string(kVariable) + ": " +
                                error.what());
  }
}

LifFunction LifFor(Target target) {
  static constexpr Implementation<LifFunction> kLif[] = {
      {Target::kScalar, scalar::Lif},
      LIF_OP_IF_X86({Target::kAvx2, avx2::Lif}, {Target::kAvx512Vnni, avx512vnni::Lif})
          LIF_OP_IF_ARM({Target::kNeon, neon::Lif})};
  return Pick(target, kLif);
}

LifFunction ForeignLifFor(Target target) {
  static constexpr Implementation<LifFunction> kForeignLif[] = {
      {Target::kScalar, scalar::ForeignLif},
      LIF_OP_IF_X86({Target::kAvx2, avx2::ForeignLif},
                    {Target::kAvx512Vnni, avx512vnni::ForeignLif})
          LIF_OP_IF_ARM({Target::kNeon, neon::ForeignLif})};
  return Pick(target, kForeignLif);
}

template <class Mem>
QlifFunction<Mem> QlifFor(Target target) {
  static constexpr Implementation<QlifFunction<Mem>> kQlif[] = {
      {Target::kScalar, scalar::Qlif},
      LIF_OP_IF_X86({Target::kAvx2, avx2::Qlif}, {Target::kAvx512Vnni, avx512vnni::Qlif})
          LIF_OP_IF_ARM({Target::kNeon, neon::Qlif})};
  return Pick(target, kQlif);
}

template QlifFunction<std::int16_t> QlifFor(Target target);
template QlifFunction<std::int8_t> QlifFor(Target target);

const QconvKernel& QconvFor(Target target) {
  using Getter = const QconvKernel& (*)();
  static constexpr Implementation<Getter> kQconv[] = {
      {Target::kScalar, scalar::Qconv},
      LIF_OP_IF_X86({Target::kAvx2, avx2::Qconv}, {Target::kAvx512Vnni, avx512vnni::Qconv})
          LIF_OP_IF_ARM({Target::kNeon, neon::Qconv}, {Target::kNeonDot, neondot::Qconv})};
  return Pick(target, kQconv)();
}

// One implementation serves all: its tables need no instruction set.
const QconvPackedKernel& QconvPackedFor(Target) { return scalar::QconvPacked(); }

namespace {

template <class Mem>
struct QconvLifEntry {
  Target target;
  const QconvLifKernel<Mem>& (*kernel)();
};

// One row per implementation of the fused layer, slowest first, of both types of the membrane.
#define LIF_OP_QCONV_LIF_ROWS(name)                                                       \
  {Target::kScalar, scalar::name},                                                        \
      LIF_OP_IF_X86({Target::kAvx2, avx2::name}, {Target::kAvx512Vnni, avx512vnni::name}, \
                    {Target::kAvx512Vbmi, avx512vbmi::name}, {Target::kAmx, amx::name}, ) \
          LIF_OP_IF_ARM({Target::kNeon, neon::name}, {Target::kNeonDot, neondot::name}, )

constexpr QconvLifEntry<std::int16_t> kQconvLif16[] = {LIF_OP_QCONV_LIF_ROWS(QconvLif16)};
constexpr QconvLifEntry<std::int8_t> kQconvLif8[] = {LIF_OP_QCONV_LIF_ROWS(QconvLif8)};

// Whether a layer has sizes as networks have them. The fast implementations lay out inputs and
// weights in forms whose sizes are products of these numbers, a stride times a block of outputs for
// example; far beyond, that is far more than the layer's tensors, or than 32-bit offsets reach.
bool IsUsual(const QconvLifLayer& layer) {
  constexpr std::int64_t kMostStride = 16;
  constexpr std::int64_t kMostKernel = 64;
  constexpr std::int64_t kMostColumn = 1 << 15;  // channels times kernel rows times stride
  const QconvShape& s = layer.shape;
  const auto small = [](std::int64_t channels, std::int64_t height, std::int64_t width,
                        std::int64_t stride) {
    return height <= kMostKernel && width <= kMostKernel && channels <= kMostColumn &&
           channels * height * stride <= kMostColumn;
  };
  return s.stride_height <= kMostStride && s.stride_width <= kMostStride &&
         s.out_channels <= kMostColumn &&
         small(s.in_channels, s.kernel_height, s.kernel_width, s.stride_width) &&
         small(s.out_channels, layer.rec_kernel_height, layer.rec_kernel_width, 1);
}

template <class Mem, std::size_t kCount>
const QconvLifKernel<Mem>& PickLayer(Target target, const QconvLifLayer& layer,
                                     const QconvLifEntry<Mem> (&entries)[kCount]) {
  if (!IsUsual(layer)) return entries[0].kernel();
  for (std::size_t i = kCount - 1; i > 0; --i) {
    if (entries[i].target > target) continue;
    const QconvLifKernel<Mem>& kernel = entries[i].kernel();
    if (kernel.supports(layer)) return kernel;
  }
  return entries[0].kernel();
}

}  // namespace

template <>
const QconvLifKernel<std::int16_t>& QconvLifFor(Target target, const QconvLifLayer& layer) {
  return PickLayer(target, layer, kQconvLif16);
}

template <>
const QconvLifKernel<std::int8_t>& QconvLifFor(Target target, const QconvLifLayer& layer) {
  return PickLayer(target, layer, kQconvLif8);
}

}  // namespace lif_op
