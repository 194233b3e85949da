// snn::QConv.
#pragma once

#include "lif_op/check.h"
#include "lif_op/qconv.h"
#include "lif_op/qconv_packed.h"
#include "ort/op.h"

namespace lif_op::ort {

// Of bytes.
class QconvNode {
 public:
  static constexpr OpSignature kSignature = {
      "QConv", "snn::QConv",
      3,       {ElementType::kUint8, ElementType::kInt8, ElementType::kInt32},
      1,       {ElementType::kInt32}};

  QconvNode(const Api& api, const NodeInfo& info, Target target);
  void Compute(const NodeRun& run) const;
  static void InferShapes(const ShapeInference& shapes);

 private:
  AlignedMemory Pack(const QconvShape& shape, const Tensor& weight) const;

  Dims strides_;
  Dims pads_;
  const QconvKernel& kernel_;
  AlignedMemory constant_weight_;  // null where the weight is no constant of the graph
};

// Of packed spikes.
class QconvPackedNode {
 public:
  static constexpr OpSignature kSignature = {
      "QConv", "snn::QConv",
      3,       {ElementType::kUint32, ElementType::kInt8, ElementType::kInt32},
      1,       {ElementType::kInt32}};

  QconvPackedNode(const Api& api, const NodeInfo& info, Target target);
  void Compute(const NodeRun& run) const;
  static void InferShapes(const ShapeInference& shapes);

 private:
  AlignedMemory Pack(const QconvShape& shape, const Tensor& weight) const;

  const QconvPackedKernel& kernel_;
  Dims strides_;
  Dims pads_;
  AlignedMemory constant_weight_;  // null where the weight is no constant of the graph
};

}  // namespace lif_op::ort
