#include "ort/qconv_node.h"

namespace lif_op::ort {
namespace {

// Rows of the flow head at 256 pixels per piece of work: some ten microseconds.
constexpr std::int64_t kPackedRows = 32;

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

}  // namespace

QconvNode::QconvNode(const Api& api, const NodeInfo& info, Target target)
    : kernel_(QconvFor(target)), strides_(info.Ints("strides")), pads_(info.Ints("pads")) {
  CheckConvAttributes(strides_, pads_);
  const Value* constant = info.ConstantInput(1);
  if (constant == nullptr) return;
  const Tensor weight = ReadTensor(api, constant);
  // A weight of a wrong rank is reported when the node runs, together with the other inputs.
  if (weight.dims.size() == 4) constant_weight_ = Pack(WeightShape(weight.dims), weight);
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
  const AlignedMemory packed = constant_weight_ ? nullptr : Pack(shape, weight);
  const ScratchMemory scratch = run.Scratch(kernel_.scratch_bytes(shape));
  const Dims acc_dims = {shape.batch, shape.out_channels, shape.out_height, shape.out_width};
  const QconvArgs args{shape,
                       x.As<const std::uint8_t>(),
                       constant_weight_ ? constant_weight_.get() : packed.get(),
                       bias.As<const std::int32_t>(),
                       static_cast<std::int32_t*>(run.Output(0, acc_dims)),
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
  if (weight.dims.size() == 4) constant_weight_ = Pack(WeightShape(weight.dims), weight);
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
  const AlignedMemory packed = constant_weight_ ? nullptr : Pack(shape, weight);
  const Dims acc_dims = {shape.batch, shape.out_channels, shape.out_height, shape.out_width};
  const QconvPackedArgs args{
      shape, x.As<const std::uint32_t>(), constant_weight_ ? constant_weight_.get() : packed.get(),
      bias.As<const std::int32_t>(), static_cast<std::int32_t*>(run.Output(0, acc_dims))};
  run.ParallelFor(shape.batch * shape.out_height, kPackedRows,
                  [&](Range rows) { kernel_.compute(args, rows); });
}

void QconvPackedNode::InferShapes(const ShapeInference&) {}

}  // namespace lif_op::ort
