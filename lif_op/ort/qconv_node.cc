#include "ort/qconv_node.h"

#include <algorithm>

namespace lif_op::ort {
namespace {

// Rows of the flow head at 256 pixels per piece of work: some ten microseconds.
constexpr std::int64_t kPackedRows = 32;

// What a convolution of packed spikes takes on one thread: a look-up for each eight channels and
// each two outputs.
double PackedMicroseconds(const QconvShape& s) {
  constexpr double kLookUpsPerUs = 2600;
  const auto taps = static_cast<double>(s.kernel_height * s.kernel_width);
  const auto outputs = static_cast<double>(s.batch * s.out_height * s.out_width);
  const auto words = static_cast<double>(lif_op::WordsFor(s.in_channels));
  const auto pairs = static_cast<double>((s.out_channels + 1) / 2);
  return outputs * pairs * taps * words * 4 / kLookUpsPerUs;
}

// Only what packing needs to know.
QconvShape WeightShape(const Dims& weight) {
  QconvShape shape{};
  shape.out_channels = weight[0];
  shape.in_channels = weight[1];
  shape.kernel_height = weight[2];
  shape.kernel_width = weight[3];
  shape.stride_height = 1;
  shape.stride_width = 1;
  return shape;
}

// The fast kernels lay out the padded input once per place within a stride, for whole vectors of
// outputs. With strides and pads as no network has them that is far more than there is input, and
// the scalar kernel, which lays out nothing, takes their place.
const QconvKernel& KernelFor(Target target, const Dims& strides, const Dims& pads) {
  constexpr std::int64_t kMostStride = 16;
  constexpr std::int64_t kMostPad = 1024;
  CheckConvAttributes(strides, pads);
  const bool usual = *std::max_element(strides.begin(), strides.end()) <= kMostStride &&
                     *std::max_element(pads.begin(), pads.end()) <= kMostPad;
  return QconvFor(usual ? target : Target::kScalar);
}

// Whether there is something to pack. A weight of a wrong rank is reported when the node runs,
// together with the other inputs; one without elements may have dimensions of any size.
bool IsWeight(const Dims& dims) {
  return dims.size() == 4 && std::find(dims.begin(), dims.end(), 0) == dims.end();
}

// The convolution where it adds nothing to the bias, or has no outputs.
void BiasAlone(const QconvShape& shape, const std::int32_t* bias, std::int32_t* acc) {
  const std::int64_t plane = shape.out_height * shape.out_width;
  const std::int64_t planes = shape.out_channels == 0 ? 0 : shape.batch * shape.out_channels;
  for (std::int64_t i = 0; i < planes; ++i) {
    std::fill_n(acc + i * plane, plane, bias[i % shape.out_channels]);
  }
}

}  // namespace

QconvNode::QconvNode(const Api& api, const NodeInfo& info, Target target)
    : strides_(info.Ints("strides")),
      pads_(info.Ints("pads")),
      kernel_(KernelFor(target, strides_, pads_)) {
  const Value* constant = info.ConstantInput(1);
  if (constant == nullptr) return;
  const Tensor weight = ReadTensor(api, constant);
  if (IsWeight(weight.dims)) constant_weight_ = Pack(WeightShape(weight.dims), weight);
}

AlignedMemory QconvNode::Pack(const QconvShape& shape, const Tensor& weight) const {
  AlignedMemory packed = AllocateAligned(kernel_.weight_bytes(shape));
  kernel_.pack_weight(shape, weight.As<const std::int8_t>(), packed.get());
  return packed;
}

void QconvNode::Compute(const NodeRun& run) const {
  const Tensor x = run.Input(0);
  const Tensor weight = run.Input(1);
  const Tensor bias = run.Input(2);
  const QconvShape shape = CheckQconv(x.dims, weight.dims, bias.dims, strides_, pads_);
  const Dims acc_dims = {shape.batch, shape.out_channels, shape.out_height, shape.out_width};
  auto* acc = static_cast<std::int32_t*>(run.Output(0, acc_dims));
  if (shape.batch == 0 || !IsWeight(weight.dims)) {
    return BiasAlone(shape, bias.As<const std::int32_t>(), acc);
  }
  const AlignedMemory packed = constant_weight_ ? nullptr : Pack(shape, weight);
  const ScratchMemory scratch = run.Scratch(kernel_.scratch_bytes(shape));
  const QconvArgs args{shape,
                       x.As<const std::uint8_t>(),
                       constant_weight_ ? constant_weight_.get() : packed.get(),
                       bias.As<const std::int32_t>(),
                       acc,
                       scratch.data()};
  run.ParallelFor(kernel_.input_items(shape), 1,
                  [&](Range items) { kernel_.pack_input(args, items); });
  run.ParallelFor(shape.batch * shape.out_height, 1,
                  [&](Range rows) { kernel_.compute(args, rows); });
}

void QconvNode::InferShapes(const ShapeInference&) {
  // Output sizes follow from the inputs when the node runs.
}

QconvPackedNode::QconvPackedNode(const Api& api, const NodeInfo& info, Target target)
    : kernel_(QconvPackedFor(target)), strides_(info.Ints("strides")), pads_(info.Ints("pads")) {
  CheckConvAttributes(strides_, pads_);
  const Value* constant = info.ConstantInput(1);
  if (constant == nullptr) return;
  const Tensor weight = ReadTensor(api, constant);
  if (IsWeight(weight.dims)) constant_weight_ = Pack(WeightShape(weight.dims), weight);
}

AlignedMemory QconvPackedNode::Pack(const QconvShape& shape, const Tensor& weight) const {
  AlignedMemory packed = AllocateAligned(kernel_.weight_bytes(shape));
  kernel_.pack_weight(shape, weight.As<const std::int8_t>(), packed.get());
  return packed;
}

void QconvPackedNode::Compute(const NodeRun& run) const {
  const Tensor x = run.Input(0);
  const Tensor weight = run.Input(1);
  const Tensor bias = run.Input(2);
  const QconvShape shape = CheckQconvPacked(x.dims, weight.dims, bias.dims, strides_, pads_);
  const Dims acc_dims = {shape.batch, shape.out_channels, shape.out_height, shape.out_width};
  auto* acc = static_cast<std::int32_t*>(run.Output(0, acc_dims));
  if (shape.batch == 0 || !IsWeight(weight.dims)) {
    return BiasAlone(shape, bias.As<const std::int32_t>(), acc);
  }
  const AlignedMemory packed = constant_weight_ ? nullptr : Pack(shape, weight);
  const QconvPackedArgs args{shape, x.As<const std::uint32_t>(),
                             constant_weight_ ? constant_weight_.get() : packed.get(),
                             bias.As<const std::int32_t>(), acc};
  const std::int64_t rows = shape.batch * shape.out_height;
  run.ParallelFor(rows, PieceOf(rows, PackedMicroseconds(shape), kPackedRows),
                  [&](Range range) { kernel_.compute(args, range); });
}

void QconvPackedNode::InferShapes(const ShapeInference&) {}

}  // namespace lif_op::ort
