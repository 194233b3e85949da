// Reference: the convolution as nested loops over the tensors as they come; nothing is packed but a
// plain copy of the weight.
#include <algorithm>
#include <cstdint>

#include "kernels/qconv/qconv_contract.h"

namespace lif_op::scalar {
namespace {

std::int64_t WeightCount(const QconvShape& s) {
  return s.out_channels * s.in_channels * s.kernel_height * s.kernel_width;
}

std::size_t WeightBytes(const QconvShape& shape) {
  return static_cast<std::size_t>(WeightCount(shape));
}

void PackWeight(const QconvShape& shape, const std::int8_t* weight, void* packed) {
  std::copy_n(weight, WeightCount(shape), static_cast<std::int8_t*>(packed));
}

std::size_t ScratchBytes(const QconvShape&) { return 0; }

std::int64_t InputItems(const QconvShape&) { return 0; }

void PackInput(const QconvArgs&, Range) {}

// Adds weight * x to the outputs of one row that see one input row through one kernel column.
// Sums wrap around, which only unsigned arithmetic defines.
void AddTap(const QconvShape& s, const std::uint8_t* x_row, std::int64_t kernel_column,
            std::int8_t weight, std::uint32_t* acc_row) {
  const std::int64_t shift = kernel_column - s.pad_left;
  const std::int64_t first = shift >= 0 ? 0 : (-shift + s.stride_width - 1) / s.stride_width;
  const std::int64_t last = s.in_width - 1 - shift;
  const std::int64_t stop = last < 0 ? 0 : std::min(s.out_width, last / s.stride_width + 1);
  const std::uint8_t* x = x_row + shift;
  if (s.stride_width == 1) {  // the same loop again, in a form that compilers vectorise
    for (std::int64_t column = first; column < stop; ++column) {
      acc_row[column] += static_cast<std::uint32_t>(weight * x[column]);
    }
  } else {
    for (std::int64_t column = first; column < stop; ++column) {
      acc_row[column] += static_cast<std::uint32_t>(weight * x[column * s.stride_width]);
    }
  }
}

void OutputRow(const QconvArgs& args, std::int64_t image, std::int64_t channel, std::int64_t row) {
  const QconvShape& s = args.shape;
  const std::int64_t plane = image * s.out_channels + channel;
  // Signed and unsigned variants of one type may alias.
  auto* acc_row =
      reinterpret_cast<std::uint32_t*>(args.acc + (plane * s.out_height + row) * s.out_width);
  std::fill(acc_row, acc_row + s.out_width, static_cast<std::uint32_t>(args.bias[channel]));
  const auto* weight = static_cast<const std::int8_t*>(args.weight) +
                       channel * s.in_channels * s.kernel_height * s.kernel_width;
  for (std::int64_t i = 0; i < s.in_channels; ++i) {
    const std::uint8_t* x = args.x + (image * s.in_channels + i) * s.in_height * s.in_width;
    for (std::int64_t u = 0; u < s.kernel_height; ++u, weight += s.kernel_width) {
      const std::int64_t in_row = row * s.stride_height + u - s.pad_top;
      if (in_row < 0 || in_row >= s.in_height) continue;
      for (std::int64_t v = 0; v < s.kernel_width; ++v) {
        AddTap(s, x + in_row * s.in_width, v, weight[v], acc_row);
      }
    }
  }
}

void Compute(const QconvArgs& args, Range rows) {
  for (std::int64_t item = rows.begin; item < rows.end; ++item) {
    const std::int64_t image = item / args.shape.out_height;
    const std::int64_t row = item % args.shape.out_height;
    for (std::int64_t channel = 0; channel < args.shape.out_channels; ++channel) {
      OutputRow(args, image, channel, row);
    }
  }
}

constexpr QconvKernel kQconv = {WeightBytes, PackWeight, ScratchBytes,
                                InputItems,  PackInput,  Compute};

}  // namespace

const QconvKernel& Qconv() { return kQconv; }

}  // namespace lif_op::scalar
