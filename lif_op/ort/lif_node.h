// snn::LIF and SNN_implementation::LIF.
#pragma once

#include "lif_op/lif.h"
#include "ort/op.h"

namespace lif_op::ort {

class LifNode {
 public:
  static constexpr OpSignature kSignature = {
      "LIF", "snn::LIF",
      4,     {ElementType::kFloat, ElementType::kFloat, ElementType::kFloat, ElementType::kFloat},
      2,     {ElementType::kFloat, ElementType::kFloat}};

  LifNode(const Api& api, const NodeInfo& info, Target target);
  void Compute(const NodeRun& run) const;
  static void InferShapes(const ShapeInference& shapes);

 private:
  LifFunction function_;
  Reset reset_;
};

class ForeignLifNode {
 public:
  static constexpr OpSignature kSignature = {
      "LIF", "SNN_implementation::LIF",
      4,     {ElementType::kFloat, ElementType::kFloat, ElementType::kFloat, ElementType::kFloat},
      2,     {ElementType::kFloat, ElementType::kFloat}};

  ForeignLifNode(const Api& api, const NodeInfo& info, Target target);
  void Compute(const NodeRun& run) const;
  static void InferShapes(const ShapeInference& shapes);

 private:
  LifFunction function_;
};

}  // namespace lif_op::ort
