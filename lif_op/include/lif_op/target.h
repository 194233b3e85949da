// Instruction sets the kernels are written for, and how one of them is chosen at run time.
#pragma once

#include <string>
#include <vector>

namespace lif_op {

// Within one processor family, each target can do what the ones before it can. kAvx512Vbmi looks up
// bytes in registers, kAmx multiplies tiles; kNeonDot has the dot products of Armv8.2.
enum class Target { kScalar, kAvx2, kAvx512Vnni, kAvx512Vbmi, kAmx, kNeon, kNeonDot };

// Name used by the environment variable and in messages: "scalar", "avx2", "avx512vnni",
// "avx512vbmi", "amx", "neon", "neondot".
const char* TargetName(Target target);

// Targets that were compiled in and that this CPU can run, slowest first. Never empty.
std::vector<Target> SupportedTargets();

// The target called `name`. Throws std::invalid_argument naming the valid ones when there is no
// such target or this CPU cannot run it.
Target TargetFromName(const std::string& name);

// The target to use: the one forced by the environment variable LIF_OP_TARGET, else the fastest.
// Throws like TargetFromName when the variable holds anything but a supported name.
Target ActiveTarget();

}  // namespace lif_op
