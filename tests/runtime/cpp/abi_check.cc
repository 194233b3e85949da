// Compile-time proof that spikedeploy/onnxruntime.h agrees with the official headers of ONNX
// Runtime. Compiling this file is the check; there is nothing to run.
#include <onnxruntime_c_api.h>

#include <cstddef>

#include "ort/abi_compare.h"
#include "spikedeploy/artifact.h"
#include "spikedeploy/onnxruntime.h"

// The official functions carry "the result must be used", which types do not.
#pragma GCC diagnostic ignored "-Wignored-attributes"

namespace spikedeploy::ort {
namespace {

using lif_op::ort::kAgree;

static_assert(ORT_API_VERSION >= kApiVersion, "these headers are older than the API asked for");

#define CHECK_SLOT(slot, name, result, parameters)                                   \
  static_assert(offsetof(OrtApi, name) == (slot) * sizeof(void*), "slot of " #name); \
  static_assert(kAgree<decltype(Api::name), decltype(OrtApi::name)>, "signature of " #name);
SPIKEDEPLOY_ORT_SLOTS(CHECK_SLOT)
#undef CHECK_SLOT

static_assert(offsetof(OrtApiBase, GetApi) == offsetof(ApiBase, GetApi));
static_assert(offsetof(OrtApiBase, GetVersionString) == offsetof(ApiBase, GetVersionString));
static_assert(kAgree<decltype(ApiBase::GetApi), decltype(OrtApiBase::GetApi)>);

#define CHECK_VALUE(ours, theirs) static_assert(static_cast<int>(ours) == (theirs), #theirs)
CHECK_VALUE(LoggingLevel::kError, ORT_LOGGING_LEVEL_ERROR);
CHECK_VALUE(OptimizationLevel::kOff, ORT_DISABLE_ALL);
CHECK_VALUE(OptimizationLevel::kBasic, ORT_ENABLE_BASIC);
CHECK_VALUE(OptimizationLevel::kExtended, ORT_ENABLE_EXTENDED);
CHECK_VALUE(OptimizationLevel::kAll, ORT_ENABLE_ALL);
CHECK_VALUE(AllocatorType::kDevice, OrtDeviceAllocator);
CHECK_VALUE(MemType::kDefault, OrtMemTypeDefault);
CHECK_VALUE(ElementType::kFloat32, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
CHECK_VALUE(ElementType::kUint8, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8);
CHECK_VALUE(ElementType::kInt8, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8);
CHECK_VALUE(ElementType::kInt16, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16);
CHECK_VALUE(ElementType::kInt32, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32);
CHECK_VALUE(ElementType::kUint32, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32);
#undef CHECK_VALUE

}  // namespace
}  // namespace spikedeploy::ort
