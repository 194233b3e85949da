// Checks of what a caller hands to the kernels. The kernels themselves check nothing.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lif_op/qconv.h"
#include "lif_op/qconv_lif.h"
#include "lif_op/spikes.h"
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
// The same where x is packed spikes.
QconvShape CheckQconvPacked(const Dims& x, const Dims& weight, const Dims& bias,
                            const Dims& strides, const Dims& pads);

// Dimensions of a fused layer's tensors. `spike_prev` and `weight_rec` are not looked at unless the
// layer is recurrent.
struct QconvLifDims {
  bool packed_x;
  bool recurrent;
  Dims x;
  Dims weight;
  Dims bias;
  Dims spike_prev;
  Dims weight_rec;
  Dims mem;
  Dims decay;
  Dims threshold;
};

// Sizes of a fused layer, without its pointers and its neuron's attributes. The first looks at the
// constants alone, and leaves batch, heights and widths 0.
QconvLifLayer CheckQconvLifConstants(const QconvLifDims& dims, const Dims& strides,
                                     const Dims& pads);
QconvLifLayer CheckQconvLif(const QconvLifDims& dims, const Dims& strides, const Dims& pads);

// Spikes [N, C, H, W] and packed spikes of `channels` channels.
SpikeShape CheckSpikes(const NamedDims& spikes, std::int64_t channels);
SpikeShape CheckPackedSpikes(const NamedDims& packed, std::int64_t channels);

}  // namespace lif_op
