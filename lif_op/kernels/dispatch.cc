// Which implementation of each kernel a target means, and which targets this CPU can run.
#include <cstdlib>
#include <stdexcept>

#include "kernels/lif/lif_contract.h"
#include "kernels/qconv/qconv_contract.h"
#include "kernels/qlif/qlif_contract.h"
#include "lif_op/target.h"

// The function of that name of a target, as a pointer of type `Type`. On other processors than x86
// only the scalar kernels are compiled.
#ifdef LIF_OP_X86
#define LIF_OP_PICK(Type, target, name) \
  Pick<Type>(target, {scalar::name, avx2::name, avx512vnni::name})
#else
#define LIF_OP_PICK(Type, target, name) Pick<Type>(target, {scalar::name, nullptr, nullptr})
#endif

namespace lif_op {
namespace {

constexpr char kVariable[] = "LIF_OP_TARGET";
constexpr Target kAllTargets[] = {Target::kScalar, Target::kAvx2, Target::kAvx512Vnni};

bool IsSupported(Target target) {
  switch (target) {
    case Target::kScalar:
      return true;
#ifdef LIF_OP_X86
    case Target::kAvx2:
      return __builtin_cpu_supports("avx2") != 0;
    case Target::kAvx512Vnni:
      return __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bw") != 0 &&
             __builtin_cpu_supports("avx512vl") != 0 && __builtin_cpu_supports("avx512dq") != 0 &&
             __builtin_cpu_supports("avx512vnni") != 0;
#endif
    default:
      return false;
  }
}

template <class Function>
struct ByTarget {
  Function reference;
  Function narrow;
  Function wide;
};

template <class Function>
Function Pick(Target target, const ByTarget<Function>& functions) {
  switch (target) {
    case Target::kAvx2:
      return functions.narrow;
    case Target::kAvx512Vnni:
      return functions.wide;
    default:
      return functions.reference;
  }
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
  switch (target) {
    case Target::kAvx2:
      return "avx2";
    case Target::kAvx512Vnni:
      return "avx512vnni";
    default:
      return "scalar";
  }
}

std::vector<Target> SupportedTargets() {
  std::vector<Target> targets;
  for (const Target target : kAllTargets) {
    if (IsSupported(target)) targets.push_back(target);
  }
  return targets;
}

Target TargetFromName(const std::string& name) {
  for (const Target target : kAllTargets) {
    if (name != TargetName(target)) continue;
    if (IsSupported(target)) return target;
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

LifFunction LifFor(Target target) { return LIF_OP_PICK(LifFunction, target, Lif); }

LifFunction ForeignLifFor(Target target) { return LIF_OP_PICK(LifFunction, target, ForeignLif); }

template <class Mem>
QlifFunction<Mem> QlifFor(Target target) {
  return LIF_OP_PICK(QlifFunction<Mem>, target, Qlif);
}

template QlifFunction<std::int16_t> QlifFor(Target target);
template QlifFunction<std::int8_t> QlifFor(Target target);

const QconvKernel& QconvFor(Target target) {
  using Getter = const QconvKernel& (*)();
  return LIF_OP_PICK(Getter, target, Qconv)();
}

}  // namespace lif_op
