// Compile-time proof that api.h agrees with the official headers of ONNX Runtime. Compiling this
// file is the check; there is nothing to run.
#include <onnxruntime_c_api.h>

#include <cstddef>
#include <type_traits>

#include "ort/abi_compare.h"
#include "ort/api.h"

// The official functions carry "the result must be used", which types do not.
#pragma GCC diagnostic ignored "-Wignored-attributes"

namespace lif_op::ort {
namespace {

static_assert(ORT_API_VERSION >= kApiVersion, "these headers are older than the API asked for");
static_assert(sizeof(void*) == sizeof(void (*)()));

#define CHECK_SLOT(slot, name, result, parameters)                                   \
  static_assert(offsetof(OrtApi, name) == (slot) * sizeof(void*), "slot of " #name); \
  static_assert(kAgree<decltype(Api::name), decltype(OrtApi::name)>, "signature of " #name);
LIF_OP_ORT_SLOTS(CHECK_SLOT)
#undef CHECK_SLOT

#define CHECK_CALLBACK(name)                                                                 \
  static_assert(offsetof(OrtCustomOp, name) == offsetof(CustomOp, name), "place of " #name); \
  static_assert(kAgree<decltype(CustomOp::name), decltype(OrtCustomOp::name)>,               \
                "signature of " #name);
LIF_OP_ORT_CALLBACKS(CHECK_CALLBACK)
#undef CHECK_CALLBACK

static_assert(offsetof(OrtCustomOp, version) == offsetof(CustomOp, version));
static_assert(std::is_same_v<decltype(OrtCustomOp::version), decltype(CustomOp::version)>);
static_assert(sizeof(OrtCustomOp) == sizeof(CustomOp));

static_assert(offsetof(OrtApiBase, GetApi) == offsetof(ApiBase, GetApi));
static_assert(offsetof(OrtApiBase, GetVersionString) == offsetof(ApiBase, GetVersionString));
static_assert(sizeof(OrtApiBase) == sizeof(ApiBase));
static_assert(kAgree<decltype(ApiBase::GetApi), decltype(OrtApiBase::GetApi)>);
static_assert(kAgree<decltype(ApiBase::GetVersionString), decltype(OrtApiBase::GetVersionString)>);

#define CHECK_VALUE(ours, theirs) static_assert(static_cast<int>(ours) == (theirs), #theirs)
CHECK_VALUE(ElementType::kFloat, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
CHECK_VALUE(ElementType::kUint8, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8);
CHECK_VALUE(ElementType::kInt8, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8);
CHECK_VALUE(ElementType::kInt16, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16);
CHECK_VALUE(ElementType::kInt32, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32);
CHECK_VALUE(ElementType::kUint32, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32);
CHECK_VALUE(ErrorCode::kFail, ORT_FAIL);
CHECK_VALUE(ErrorCode::kInvalidArgument, ORT_INVALID_ARGUMENT);
CHECK_VALUE(AllocatorType::kDevice, OrtDeviceAllocator);
CHECK_VALUE(MemType::kDefault, OrtMemTypeDefault);
CHECK_VALUE(InputOutputCharacteristic::kRequired, INPUT_OUTPUT_REQUIRED);
#undef CHECK_VALUE

}  // namespace
}  // namespace lif_op::ort
