// Convolution of bytes with signed bytes into 32-bit sums.
#pragma once

#include <cstddef>
#include <cstdint>

#include "lif_op/target.h"
#include "lif_op/types.h"

namespace lif_op {

// x uint8 [batch, in_channels, in_height, in_width], weight int8 [out_channels, in_channels,
// kernel_height, kernel_width], bias int32 [out_channels], acc int32 [batch, out_channels,
// out_height, out_width]; all dense. Pads are filled with zeros.
struct QconvShape {
  std::int64_t batch;
  std::int64_t in_channels;
  std::int64_t in_height;
  std::int64_t in_width;
  std::int64_t out_channels;
  std::int64_t out_height;
  std::int64_t out_width;
  std::int64_t kernel_height;
  std::int64_t kernel_width;
  std::int64_t stride_height;
  std::int64_t stride_width;
  std::int64_t pad_top;
  std::int64_t pad_left;
};

struct QconvArgs {
  QconvShape shape;
  const std::uint8_t* x;
  const void* weight;  // packed by QconvKernel::pack_weight
  const std::int32_t* bias;
  std::int32_t* acc;
  void* scratch;  // filled by QconvKernel::pack_input
};

// acc[n, o, y, x] = bias[o] + sum(weight[o, i, u, v] * x[n, i, y * stride_height + u - pad_top,
// x * stride_width + v - pad_left]), modulo 2^32: exact for all bytes on both sides.
//
// A convolution runs in three steps: pack_weight once per weight; pack_input over all of its work
// items; after that, compute over all of its. Packed memory is aligned to kQconvAlignment bytes.
struct QconvKernel {
  std::size_t (*weight_bytes)(const QconvShape& shape);
  void (*pack_weight)(const QconvShape& shape, const std::int8_t* weight, void* packed);
  std::size_t (*scratch_bytes)(const QconvShape& shape);
  std::int64_t (*input_items)(const QconvShape& shape);
  void (*pack_input)(const QconvArgs& args, Range items);
  // Work items are output rows, counted over 0..batch * out_height.
  void (*compute)(const QconvArgs& args, Range rows);
};

inline constexpr std::size_t kQconvAlignment = 64;

const QconvKernel& QconvFor(Target target);

}  // namespace lif_op
