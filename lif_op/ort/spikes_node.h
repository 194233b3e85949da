// snn::PackSpikes and snn::UnpackSpikes.
#pragma once

#include "lif_op/spikes.h"
#include "ort/op.h"

namespace lif_op::ort {

class PackSpikesNode {
 public:
  static constexpr OpSignature kSignature = {
      "PackSpikes", "snn::PackSpikes", 1, {ElementType::kUint8}, 1, {ElementType::kUint32}};

  PackSpikesNode(const Api& api, const NodeInfo& info, Target target);
  void Compute(const NodeRun& run) const;
  static void InferShapes(const ShapeInference& shapes);

 private:
  std::int64_t channels_;
};

class UnpackSpikesNode {
 public:
  static constexpr OpSignature kSignature = {
      "UnpackSpikes", "snn::UnpackSpikes", 1, {ElementType::kUint32}, 1, {ElementType::kUint8}};

  UnpackSpikesNode(const Api& api, const NodeInfo& info, Target target);
  void Compute(const NodeRun& run) const;
  static void InferShapes(const ShapeInference& shapes);

 private:
  std::int64_t channels_;
};

}  // namespace lif_op::ort
