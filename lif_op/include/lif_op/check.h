// Checks of what a caller hands to the kernels. The kernels themselves check nothing.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lif_op/qconv.h"
#include "lif_op/types.h"

namespace lif_op {

using Dims = std::vector<std::int64_t>;

// All of these throw std::invalid_argument with a message that names the offending input or
// attribute.

// "zero", "subtract" or "none".
Reset ResetFromName(const std::string& name);

// A tensor of a neuron and what it is called in messages.
struct NamedDims {
  const char* name;
  Dims dims;
};

// Layout of the tensors of a neuron. `current` and `mem` must be equal, [N, C, ...].
ChannelLayout CheckNeuron(const NamedDims& current, const NamedDims& mem);

// Per-channel parameter: [C], or with `allow_unit_dims` also [C, 1, 1].
void CheckParameter(const NamedDims& parameter, std::int64_t channels, bool allow_unit_dims);

// Values 0..256.
void CheckDecay(const std::int32_t* decay, std::int64_t channels);

// frac_bits of a membrane of `mem_bits` bits.
int CheckFracBits(std::int64_t frac_bits, int mem_bits);

// strides is [vertical, horizontal], pads [top, left, bottom, right].
void CheckConvAttributes(const Dims& strides, const Dims& pads);
QconvShape CheckQconv(const Dims& x, const Dims& weight, const Dims& bias, const Dims& strides,
                      const Dims& pads);

}  // namespace lif_op
