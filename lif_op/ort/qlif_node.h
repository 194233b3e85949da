// snn::QLIF.
#pragma once

#include <cstdint>
#include <type_traits>

#include "lif_op/qlif.h"
#include "ort/op.h"

namespace lif_op::ort {

// One overload per type of the membrane, std::int16_t and std::int8_t.
template <class Mem>
class QlifNode {
 public:
  static constexpr ElementType kMemType =
      std::is_same_v<Mem, std::int16_t> ? ElementType::kInt16 : ElementType::kInt8;
  static constexpr OpSignature kSignature = {
      "QLIF", "snn::QLIF",
      4,      {ElementType::kInt32, kMemType, ElementType::kInt32, ElementType::kInt32},
      2,      {ElementType::kUint8, kMemType}};

  QlifNode(const Api& api, const NodeInfo& info, Target target);
  void Compute(const NodeRun& run) const;
  static void InferShapes(const ShapeInference& shapes);

 private:
  QlifFunction<Mem> function_;
  int frac_bits_;
  Reset reset_;
};

extern template class QlifNode<std::int16_t>;
extern template class QlifNode<std::int8_t>;

}  // namespace lif_op::ort
