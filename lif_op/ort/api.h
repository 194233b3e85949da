// The part of the ONNX Runtime C API that a CPU op library needs, written down by hand.
//
// The runtime hands out its API as a table of function pointers that only ever grows: a function
// keeps its slot forever. So a list of slot numbers and signatures is all a library needs; there is
// no header to fetch and no library to link. abi_check.cc proves the list against the official
// headers at compile time.
//
// Names follow the official ones, within namespace lif_op::ort and without the prefix "Ort".
#pragma once

#include <cstddef>
#include <cstdint>

namespace lif_op::ort {

// Version of the API that is asked for. Every slot and callback below exists since then.
inline constexpr std::uint32_t kApiVersion = 18;
inline constexpr char kOldestRuntime[] = "1.18";

// Objects that only the runtime looks into.
struct Allocator;
struct CustomOpDomain;
struct KernelContext;
struct KernelInfo;
struct MemoryInfo;
struct OpAttr;
struct RawApi;
struct SessionOptions;
struct ShapeInferContext;
struct Status;
struct TensorTypeAndShapeInfo;
struct Value;
struct CustomOp;

enum class ElementType : int {
  kFloat = 1,
  kUint8 = 2,
  kInt8 = 3,
  kInt16 = 5,
  kInt32 = 6,
  kUint32 = 12
};
enum class ErrorCode : int { kFail = 1, kInvalidArgument = 2 };
enum class AllocatorType : int { kDevice = 0 };
enum class MemType : int { kDefault = 0 };
enum class InputOutputCharacteristic : int { kRequired = 0 };

// X(slot, name, return type, parameters)
#define LIF_OP_ORT_SLOTS(X)                                                                     \
  X(0, CreateStatus, Status*, (ErrorCode, const char*))                                         \
  X(26, CreateCustomOpDomain, Status*, (const char*, CustomOpDomain**))                         \
  X(27, CustomOpDomain_Add, Status*, (CustomOpDomain*, const CustomOp*))                        \
  X(28, AddCustomOpDomain, Status*, (SessionOptions*, CustomOpDomain*))                         \
  X(51, GetTensorMutableData, Status*, (Value*, void**))                                        \
  X(57, CreateTensorTypeAndShapeInfo, Status*, (TensorTypeAndShapeInfo**))                      \
  X(58, SetTensorElementType, Status*, (TensorTypeAndShapeInfo*, ElementType))                  \
  X(59, SetDimensions, Status*, (TensorTypeAndShapeInfo*, const std::int64_t*, std::size_t))    \
  X(60, GetTensorElementType, Status*, (const TensorTypeAndShapeInfo*, ElementType*))           \
  X(61, GetDimensionsCount, Status*, (const TensorTypeAndShapeInfo*, std::size_t*))             \
  X(62, GetDimensions, Status*, (const TensorTypeAndShapeInfo*, std::int64_t*, std::size_t))    \
  X(63, GetSymbolicDimensions, Status*,                                                         \
    (const TensorTypeAndShapeInfo*, const char**, std::size_t))                                 \
  X(65, GetTensorTypeAndShape, Status*, (const Value*, TensorTypeAndShapeInfo**))               \
  X(69, CreateCpuMemoryInfo, Status*, (AllocatorType, MemType, MemoryInfo**))                   \
  X(75, AllocatorAlloc, Status*, (Allocator*, std::size_t, void**))                             \
  X(76, AllocatorFree, Status*, (Allocator*, void*))                                            \
  X(86, KernelInfoGetAttribute_int64, Status*, (const KernelInfo*, const char*, std::int64_t*)) \
  X(87, KernelInfoGetAttribute_string, Status*,                                                 \
    (const KernelInfo*, const char*, char*, std::size_t*))                                      \
  X(90, KernelContext_GetInput, Status*, (const KernelContext*, std::size_t, const Value**))    \
  X(91, KernelContext_GetOutput, Status*,                                                       \
    (KernelContext*, std::size_t, const std::int64_t*, std::size_t, Value**))                   \
  X(93, ReleaseStatus, void, (Status*))                                                         \
  X(94, ReleaseMemoryInfo, void, (MemoryInfo*))                                                 \
  X(99, ReleaseTensorTypeAndShapeInfo, void, (TensorTypeAndShapeInfo*))                         \
  X(132, ReleaseAllocator, void, (Allocator*))                                                  \
  X(163, KernelInfoGetAttributeArray_int64, Status*,                                            \
    (const KernelInfo*, const char*, std::int64_t*, std::size_t*))                              \
  X(249, KernelInfoGetConstantInput_tensor, Status*,                                            \
    (const KernelInfo*, std::size_t, int*, const Value**))                                      \
  X(253, KernelContext_GetAllocator, Status*,                                                   \
    (const KernelContext*, const MemoryInfo*, Allocator**))                                     \
  X(268, ShapeInferContext_GetInputTypeShape, Status*,                                          \
    (const ShapeInferContext*, std::size_t, TensorTypeAndShapeInfo**))                          \
  X(270, ShapeInferContext_SetOutputTypeShape, Status*,                                         \
    (const ShapeInferContext*, std::size_t, const TensorTypeAndShapeInfo*))                     \
  X(271, SetSymbolicDimensions, Status*, (TensorTypeAndShapeInfo*, const char**, std::size_t))  \
  X(274, KernelContext_ParallelFor, Status*,                                                    \
    (const KernelContext*, void (*)(void*, std::size_t), std::size_t, std::size_t, void*))

// The functions of one runtime. Two runtimes in a process, of two versions even, have one each.
struct Api {
#define LIF_OP_ORT_MEMBER(slot, name, result, parameters) result(*name) parameters;
  LIF_OP_ORT_SLOTS(LIF_OP_ORT_MEMBER)
#undef LIF_OP_ORT_MEMBER
};

// What the runtime hands to the entry point of an op library.
struct ApiBase {
  const RawApi* (*GetApi)(std::uint32_t version);
  const char* (*GetVersionString)();
};

// One op, as callbacks. The runtime reads as much of it as `version` says.
struct CustomOp {
  std::uint32_t version;
  void* (*CreateKernel)(const CustomOp*, const RawApi*, const KernelInfo*);
  const char* (*GetName)(const CustomOp*);
  const char* (*GetExecutionProviderType)(const CustomOp*);
  ElementType (*GetInputType)(const CustomOp*, std::size_t);
  std::size_t (*GetInputTypeCount)(const CustomOp*);
  ElementType (*GetOutputType)(const CustomOp*, std::size_t);
  std::size_t (*GetOutputTypeCount)(const CustomOp*);
  void (*KernelCompute)(void*, KernelContext*);
  void (*KernelDestroy)(void*);
  InputOutputCharacteristic (*GetInputCharacteristic)(const CustomOp*, std::size_t);
  InputOutputCharacteristic (*GetOutputCharacteristic)(const CustomOp*, std::size_t);
  MemType (*GetInputMemoryType)(const CustomOp*, std::size_t);
  int (*GetVariadicInputMinArity)(const CustomOp*);
  int (*GetVariadicInputHomogeneity)(const CustomOp*);
  int (*GetVariadicOutputMinArity)(const CustomOp*);
  int (*GetVariadicOutputHomogeneity)(const CustomOp*);
  Status* (*CreateKernelV2)(const CustomOp*, const RawApi*, const KernelInfo*, void**);
  Status* (*KernelComputeV2)(void*, KernelContext*);
  Status* (*InferOutputShapeFn)(const CustomOp*, ShapeInferContext*);
  int (*GetStartVersion)(const CustomOp*);
  int (*GetEndVersion)(const CustomOp*);
  std::size_t (*GetMayInplace)(int**, int**);
  void (*ReleaseMayInplace)(int*, int*);
  std::size_t (*GetAliasMap)(int**, int**);
  void (*ReleaseAliasMap)(int*, int*);
};

// X(callback): every member of CustomOp, for abi_check.cc.
// clang-format off
#define LIF_OP_ORT_CALLBACKS(X) \
  X(CreateKernel) \
  X(GetName) \
  X(GetExecutionProviderType) \
  X(GetInputType) \
  X(GetInputTypeCount) \
  X(GetOutputType) \
  X(GetOutputTypeCount) \
  X(KernelCompute) \
  X(KernelDestroy) \
  X(GetInputCharacteristic) \
  X(GetOutputCharacteristic) \
  X(GetInputMemoryType) \
  X(GetVariadicInputMinArity) \
  X(GetVariadicInputHomogeneity) \
  X(GetVariadicOutputMinArity) \
  X(GetVariadicOutputHomogeneity) \
  X(CreateKernelV2) \
  X(KernelComputeV2) \
  X(InferOutputShapeFn) \
  X(GetStartVersion) \
  X(GetEndVersion) \
  X(GetMayInplace) \
  X(ReleaseMayInplace) \
  X(GetAliasMap) \
  X(ReleaseAliasMap)
// clang-format on

}  // namespace lif_op::ort
