// snn::QConv.
#pragma once

#include <memory>

#include "lif_op/check.h"
#include "lif_op/qconv.h"
#include "ort/op.h"

namespace lif_op::ort {

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
  struct AlignedDelete {
    void operator()(void* memory) const;
  };
  using PackedWeight = std::unique_ptr<void, AlignedDelete>;

  PackedWeight Pack(const QconvShape& shape, const Tensor& weight) const;

  const QconvKernel& kernel_;
  Dims strides_;
  Dims pads_;
  PackedWeight constant_weight_;  // null where the weight is no constant of the graph
};

}  // namespace lif_op::ort
