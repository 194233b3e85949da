// Convolution, leaky integrate-and-fire neuron and packing of the spikes in one pass.
#pragma once

#include <cstddef>
#include <cstdint>

#include "lif_op/qconv.h"
#include "lif_op/spikes.h"
#include "lif_op/target.h"
#include "lif_op/types.h"

namespace lif_op {

// What does not change from step to step, and the sizes. Tensors are dense.
struct QconvLifLayer {
  // The convolution of x. `batch` and the heights and widths may be 0 while a layer is packed.
  QconvShape shape;
  // x is packed spikes [batch, in_height, in_width, WordsFor(in_channels)], else event counts
  // uint8 [batch, in_channels, in_height, in_width].
  bool packed_x;
  // The convolution of the layer's own previous spikes: odd kernel, stride 1, padded by half the
  // kernel. Sizes 0 and `weight_rec` null where the layer has none.
  std::int64_t rec_kernel_height;
  std::int64_t rec_kernel_width;
  const std::int8_t* weight;      // [out_channels, in_channels, kernel_height, kernel_width]
  const std::int32_t* bias;       // [out_channels]
  const std::int8_t* weight_rec;  // [out_channels, out_channels, rec_kernel_height, ..._width]
  const std::int32_t* decay;      // [out_channels], 0..kDecayOne
  const std::int32_t* threshold;  // [out_channels]
  int frac_bits;
  Reset reset;
};

// One step. The membrane is of type std::int16_t or std::int8_t, channels last.
template <class Mem>
struct QconvLifArgs {
  QconvLifLayer layer;
  const void* packed;  // filled by QconvLifKernel::pack for this layer
  const void* x;       // std::uint8_t or std::uint32_t, see QconvLifLayer::packed_x
  const std::uint32_t*
      spike_prev;        // [batch, out_height, out_width, words], null without weight_rec
  const Mem* mem;        // [batch, out_height, out_width, out_channels]
  std::uint32_t* spike;  // [batch, out_height, out_width, words]
  Mem* mem_out;          // may be `mem`; other outputs overlap nothing
};

// acc = bias + convolution of x + convolution of spike_prev, modulo 2^32, as in lif_op/qconv.h;
// then the neuron of lif_op/qlif.h. Bits of a word beyond the last channel are ignored in x and
// spike_prev, and 0 in `spike`.
//
// A layer runs in two steps: `pack` once per set of constants, `compute` over its output rows,
// counted over 0..batch * out_height, in any order and parts. `packed` and `scratch` are aligned to
// kQconvAlignment bytes; calls at the same time need a scratch each.
template <class Mem>
struct QconvLifKernel {
  // Whether this implementation computes such a layer. Depends on nothing that may be 0 while a
  // layer is packed.
  bool (*supports)(const QconvLifLayer& layer);
  std::size_t (*packed_bytes)(const QconvLifLayer& layer);
  void (*pack)(const QconvLifLayer& layer, void* packed);
  std::size_t (*scratch_bytes)(const QconvLifLayer& layer);
  void (*compute)(const QconvLifArgs<Mem>& args, Range rows, void* scratch);
  // Roughly how many multiply-accumulates of a dense layer a core does in a microsecond.
  std::int64_t macs_per_us;
};

// The fastest implementation that computes the layer, of the target or of the ones below it. The
// scalar one computes every layer.
template <class Mem>
const QconvLifKernel<Mem>& QconvLifFor(Target target, const QconvLifLayer& layer);
template <>
const QconvLifKernel<std::int16_t>& QconvLifFor(Target target, const QconvLifLayer& layer);
template <>
const QconvLifKernel<std::int8_t>& QconvLifFor(Target target, const QconvLifLayer& layer);

}  // namespace lif_op
