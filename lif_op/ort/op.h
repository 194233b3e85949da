// Turns a C++ kernel class into the callbacks of a custom op.
//
// A kernel class has
//   static constexpr OpSignature kSignature;
//   Kernel(const Api&, const NodeInfo&, Target)         may throw
//   void Compute(const NodeRun&) const                  may throw
//   static void InferShapes(const ShapeInference&)      may throw
#pragma once

#include <climits>
#include <cstddef>

#include "lif_op/target.h"
#include "ort/api.h"
#include "ort/node.h"

namespace lif_op::ort {

inline constexpr std::size_t kMaxInputs = 8;
inline constexpr std::size_t kMaxOutputs = 2;

struct OpSignature {
  const char* name;
  const char* full_name;  // with the domain, for messages
  std::size_t num_inputs;
  ElementType inputs[kMaxInputs];
  std::size_t num_outputs;
  ElementType outputs[kMaxOutputs];
};

// An op of one runtime.
template <class Kernel>
class Op : public CustomOp {
 public:
  explicit Op(const Api& api) : CustomOp{}, api_(api) {
    version = kApiVersion;
    GetName = [](const CustomOp*) { return Kernel::kSignature.name; };
    GetExecutionProviderType = [](const CustomOp*) -> const char* { return nullptr; };
    GetInputTypeCount = [](const CustomOp*) { return Kernel::kSignature.num_inputs; };
    GetInputType = [](const CustomOp*, std::size_t i) { return Kernel::kSignature.inputs[i]; };
    GetOutputTypeCount = [](const CustomOp*) { return Kernel::kSignature.num_outputs; };
    GetOutputType = [](const CustomOp*, std::size_t i) { return Kernel::kSignature.outputs[i]; };
    GetInputCharacteristic = Required;
    GetOutputCharacteristic = Required;
    GetInputMemoryType = [](const CustomOp*, std::size_t) { return MemType::kDefault; };
    GetVariadicInputMinArity = One;
    GetVariadicInputHomogeneity = One;
    GetVariadicOutputMinArity = One;
    GetVariadicOutputHomogeneity = One;
    GetStartVersion = One;
    GetEndVersion = [](const CustomOp*) { return INT_MAX; };
    CreateKernelV2 = Create;
    KernelComputeV2 = Compute;
    KernelDestroy = [](void* kernel) { delete static_cast<Instance*>(kernel); };
    InferOutputShapeFn = InferShapes;
  }

 private:
  // A kernel and the runtime it belongs to.
  struct Instance {
    const Api& api;
    Kernel kernel;
  };

  static InputOutputCharacteristic Required(const CustomOp*, std::size_t) {
    return InputOutputCharacteristic::kRequired;
  }

  static int One(const CustomOp*) { return 1; }

  static Status* Create(const CustomOp* op, const RawApi*, const KernelInfo* info, void** kernel) {
    const Api& api = static_cast<const Op*>(op)->api_;
    return Guard(api, Kernel::kSignature.full_name, [&] {
      *kernel = new Instance{api, Kernel(api, NodeInfo(api, info), ActiveTarget())};
    });
  }

  static Status* Compute(void* kernel, KernelContext* context) {
    const Instance& instance = *static_cast<const Instance*>(kernel);
    return Guard(instance.api, Kernel::kSignature.full_name,
                 [&] { instance.kernel.Compute(NodeRun(instance.api, context)); });
  }

  static Status* InferShapes(const CustomOp* op, ShapeInferContext* context) {
    const Api& api = static_cast<const Op*>(op)->api_;
    return Guard(api, Kernel::kSignature.full_name,
                 [&] { Kernel::InferShapes(ShapeInference(api, context)); });
  }

  const Api& api_;
};

}  // namespace lif_op::ort
