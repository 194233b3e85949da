#include "ort/node.h"

#include <exception>
#include <memory>
#include <new>
#include <stdexcept>
#include <vector>

#include "lif_op/qconv.h"
#include "lif_op/spikes.h"

namespace lif_op::ort {
namespace {

Status* MakeStatus(const Api& api, ErrorCode code, const char* op, const char* message) noexcept {
  try {
    return api.CreateStatus(code, (std::string(op) + ": " + message).c_str());
  } catch (...) {
    return api.CreateStatus(code, message);
  }
}

// The runtime's description of a tensor, released at the end of the scope.
class TensorInfo {
 public:
  TensorInfo(const Api& api, const Value* value) : api_(api) {
    Check(api_.GetTensorTypeAndShape(value, &info_));
  }
  ~TensorInfo() { api_.ReleaseTensorTypeAndShapeInfo(info_); }
  TensorInfo(const TensorInfo&) = delete;
  TensorInfo& operator=(const TensorInfo&) = delete;

  Dims GetDims() const {
    std::size_t rank = 0;
    Check(api_.GetDimensionsCount(info_, &rank));
    Dims dims(rank);
    Check(api_.GetDimensions(info_, dims.data(), rank));
    return dims;
  }

 private:
  const Api& api_;
  TensorTypeAndShapeInfo* info_ = nullptr;
};

}  // namespace

Status* CurrentExceptionStatus(const Api& api, const char* op) noexcept {
  try {
    throw;
  } catch (const StatusError& error) {
    return error.status;
  } catch (const std::invalid_argument& error) {
    return MakeStatus(api, ErrorCode::kInvalidArgument, op, error.what());
  } catch (const std::bad_alloc&) {
    return MakeStatus(api, ErrorCode::kFail, op, "out of memory");
  } catch (const std::exception& error) {
    return MakeStatus(api, ErrorCode::kFail, op, error.what());
  } catch (...) {
    return MakeStatus(api, ErrorCode::kFail, op, "unknown error");
  }
}

void NodeInfo::CheckFound(Status* status, const char* name, const char* kind) const {
  if (status == nullptr) return;
  api_.ReleaseStatus(
      status);  // it says neither which op it is about nor, of lists, which attribute
  throw std::invalid_argument("attribute '" + std::string(name) + "' is missing or not " + kind);
}

std::int64_t NodeInfo::Int(const char* name) const {
  std::int64_t value = 0;
  CheckFound(api_.KernelInfoGetAttribute_int64(info_, name, &value), name, "an integer");
  return value;
}

std::string NodeInfo::String(const char* name) const {
  std::size_t size = 0;  // the terminating zero included
  CheckFound(api_.KernelInfoGetAttribute_string(info_, name, nullptr, &size), name, "a text");
  std::string text(size, '\0');
  Check(api_.KernelInfoGetAttribute_string(info_, name, text.data(), &size));
  text.resize(size > 0 ? size - 1 : 0);
  return text;
}

Dims NodeInfo::Ints(const char* name) const {
  std::size_t size = 0;
  CheckFound(api_.KernelInfoGetAttributeArray_int64(info_, name, nullptr, &size), name,
             "a list of integers");
  Dims values(size);
  Check(api_.KernelInfoGetAttributeArray_int64(info_, name, values.data(), &size));
  return values;
}

const Value* NodeInfo::ConstantInput(std::size_t index) const {
  int is_constant = 0;
  const Value* value = nullptr;
  Check(api_.KernelInfoGetConstantInput_tensor(info_, index, &is_constant, &value));
  return is_constant != 0 ? value : nullptr;
}

void AlignedDelete::operator()(void* memory) const {
  ::operator delete(memory, std::align_val_t{kQconvAlignment});
}

AlignedMemory AllocateAligned(std::size_t bytes) {
  return AlignedMemory(::operator new(bytes, std::align_val_t{kQconvAlignment}));
}

Tensor ReadTensor(const Api& api, const Value* value) {
  Tensor tensor{TensorInfo(api, value).GetDims(), nullptr};
  // The only accessor there is. Inputs are not written to.
  Check(api.GetTensorMutableData(const_cast<Value*>(value), &tensor.data));
  return tensor;
}

Tensor NodeRun::Input(std::size_t index) const {
  const Value* value = nullptr;
  Check(api_.KernelContext_GetInput(context_, index, &value));
  return ReadTensor(api_, value);
}

void* NodeRun::Output(std::size_t index, const Dims& dims) const {
  Value* value = nullptr;
  Check(api_.KernelContext_GetOutput(context_, index, dims.data(), dims.size(), &value));
  void* data = nullptr;
  Check(api_.GetTensorMutableData(value, &data));
  return data;
}

ScratchMemory NodeRun::Scratch(std::size_t bytes) const {
  MemoryInfo* memory = nullptr;
  Check(api_.CreateCpuMemoryInfo(AllocatorType::kDevice, MemType::kDefault, &memory));
  Allocator* allocator = nullptr;
  Status* status = api_.KernelContext_GetAllocator(context_, memory, &allocator);
  api_.ReleaseMemoryInfo(memory);
  Check(status);
  return ScratchMemory(api_, allocator, bytes);
}

ScratchMemory::ScratchMemory(const Api& api, Allocator* allocator, std::size_t bytes)
    : api_(api), allocator_(allocator) {
  Status* status = api_.AllocatorAlloc(allocator_, bytes + kQconvAlignment, &block_);
  if (status != nullptr) {
    api_.ReleaseAllocator(allocator_);
    throw StatusError{status};
  }
  std::size_t space = bytes + kQconvAlignment;
  data_ = block_;
  std::align(kQconvAlignment, bytes, data_, space);
}

ScratchMemory::~ScratchMemory() {
  if (Status* status = api_.AllocatorFree(allocator_, block_)) api_.ReleaseStatus(status);
  api_.ReleaseAllocator(allocator_);
}

void ShapeInference::CopyTypeAndShape(std::size_t input, std::size_t output) const {
  TensorTypeAndShapeInfo* info = nullptr;
  Check(api_.ShapeInferContext_GetInputTypeShape(context_, input, &info));
  Check(api_.ShapeInferContext_SetOutputTypeShape(context_, output, info));
}

void ShapeInference::CopyShape(std::size_t input, std::size_t output, ElementType type) const {
  // The description belongs to the context. It is the only form in which symbolic dimensions
  // survive, so it is lent to the output with another element type and then restored.
  TensorTypeAndShapeInfo* info = nullptr;
  Check(api_.ShapeInferContext_GetInputTypeShape(context_, input, &info));
  ElementType own{};
  Check(api_.GetTensorElementType(info, &own));
  Check(api_.SetTensorElementType(info, type));
  Status* status = api_.ShapeInferContext_SetOutputTypeShape(context_, output, info);
  Check(api_.SetTensorElementType(info, own));
  Check(status);
}

std::vector<Dimension> ShapeInference::Dimensions(std::size_t input) const {
  TensorTypeAndShapeInfo* info = nullptr;
  Check(api_.ShapeInferContext_GetInputTypeShape(context_, input, &info));
  std::size_t rank = 0;
  Check(api_.GetDimensionsCount(info, &rank));
  Dims sizes(rank, -1);
  Check(api_.GetDimensions(info, sizes.data(), rank));
  std::vector<const char*> symbols(rank, nullptr);
  Check(api_.GetSymbolicDimensions(info, symbols.data(), rank));
  std::vector<Dimension> dimensions(rank);
  for (std::size_t i = 0; i < rank; ++i) {
    dimensions[i].size = sizes[i];
    if (symbols[i] != nullptr) dimensions[i].symbol = symbols[i];
  }
  return dimensions;
}

void ShapeInference::SetShape(std::size_t output, ElementType type,
                              const std::vector<Dimension>& dimensions) const {
  TensorTypeAndShapeInfo* info = nullptr;
  Check(api_.CreateTensorTypeAndShapeInfo(&info));
  const auto release = [this](TensorTypeAndShapeInfo* made) {
    api_.ReleaseTensorTypeAndShapeInfo(made);
  };
  const std::unique_ptr<TensorTypeAndShapeInfo, decltype(release)> owner(info, release);
  Dims sizes;
  std::vector<const char*> symbols;
  for (const Dimension& dimension : dimensions) {
    sizes.push_back(dimension.size);
    symbols.push_back(dimension.symbol.c_str());
  }
  Check(api_.SetTensorElementType(info, type));
  Check(api_.SetDimensions(info, sizes.data(), sizes.size()));
  Check(api_.SetSymbolicDimensions(info, symbols.data(), symbols.size()));
  Check(api_.ShapeInferContext_SetOutputTypeShape(context_, output, info));
}

Dimension WordsFor(const Dimension& channels) {
  return {channels.size < 0 ? -1 : lif_op::WordsFor(channels.size), ""};
}

}  // namespace lif_op::ort
