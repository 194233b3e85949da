// snn::QConvLIF and snn::QConvLIFRec.
#pragma once

#include <cstdint>
#include <type_traits>

#include "lif_op/check.h"
#include "lif_op/qconv_lif.h"
#include "ort/op.h"

namespace lif_op::ort {

// One overload per type of x, std::uint8_t (event counts) and std::uint32_t (packed spikes), and
// per type of the membrane, std::int16_t and std::int8_t.
template <class X, class Mem, bool kRecurrent>
class QconvLifNode {
 public:
  static constexpr ElementType kXType =
      std::is_same_v<X, std::uint32_t> ? ElementType::kUint32 : ElementType::kUint8;
  static constexpr ElementType kMemType =
      std::is_same_v<Mem, std::int16_t> ? ElementType::kInt16 : ElementType::kInt8;
  static constexpr OpSignature kPlain = {"QConvLIF",
                                         "snn::QConvLIF",
                                         6,
                                         {kXType, ElementType::kInt8, ElementType::kInt32, kMemType,
                                          ElementType::kInt32, ElementType::kInt32},
                                         2,
                                         {ElementType::kUint32, kMemType}};
  static constexpr OpSignature kRec = {
      "QConvLIFRec",
      "snn::QConvLIFRec",
      8,
      {kXType, ElementType::kInt8, ElementType::kInt32, ElementType::kUint32, ElementType::kInt8,
       kMemType, ElementType::kInt32, ElementType::kInt32},
      2,
      {ElementType::kUint32, kMemType}};
  static constexpr OpSignature kSignature = kRecurrent ? kRec : kPlain;

  QconvLifNode(const Api& api, const NodeInfo& info, Target target);
  void Compute(const NodeRun& run) const;
  static void InferShapes(const ShapeInference& shapes);

 private:
  struct Inputs;

  // The layer of these inputs; `sized` with x and mem, which are unknown before the node runs.
  QconvLifLayer Layer(const Inputs& inputs, bool sized) const;
  static AlignedMemory Pack(const QconvLifKernel<Mem>& kernel, const QconvLifLayer& layer);

  Target target_;
  Dims strides_;
  Dims pads_;
  int frac_bits_;
  Reset reset_;
  AlignedMemory constants_;  // packed; null where not all of them are constants of the graph
};

extern template class QconvLifNode<std::uint8_t, std::int16_t, false>;
extern template class QconvLifNode<std::uint8_t, std::int8_t, false>;
extern template class QconvLifNode<std::uint32_t, std::int16_t, false>;
extern template class QconvLifNode<std::uint32_t, std::int8_t, false>;
extern template class QconvLifNode<std::uint8_t, std::int16_t, true>;
extern template class QconvLifNode<std::uint8_t, std::int8_t, true>;
extern template class QconvLifNode<std::uint32_t, std::int16_t, true>;
extern template class QconvLifNode<std::uint32_t, std::int8_t, true>;

}  // namespace lif_op::ort
