// What the nodes of this library need of ONNX Runtime, in terms of C++: errors as exceptions
// inside, as statuses outside; tensors as a pointer and dimensions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "lif_op/check.h"
#include "lif_op/types.h"
#include "ort/api.h"

namespace lif_op::ort {

// An error that came from the runtime; carries its status to the border.
struct StatusError {
  Status* status;
};

// Throws StatusError when a call into the runtime failed.
inline void Check(Status* status) {
  if (status != nullptr) throw StatusError{status};
}

// Status of the exception that is being handled, its message prefixed with the op it comes from.
Status* CurrentExceptionStatus(const Api& api, const char* op) noexcept;

// Runs `body` at the border to the runtime. Nothing it throws gets past: errors become statuses.
template <class Body>
Status* Guard(const Api& api, const char* op, Body body) noexcept {
  try {
    body();
    return nullptr;
  } catch (...) {
    return CurrentExceptionStatus(api, op);
  }
}

// Attributes and constant inputs of a node, while its kernel is created.
class NodeInfo {
 public:
  NodeInfo(const Api& api, const KernelInfo* info) : api_(api), info_(info) {}

  std::int64_t Int(const char* name) const;
  std::string String(const char* name) const;
  Dims Ints(const char* name) const;

  // The input if it is a constant of the graph, else null.
  const Value* ConstantInput(std::size_t index) const;

 private:
  // Throws std::invalid_argument where the runtime found no attribute of that kind.
  void CheckFound(Status* status, const char* name, const char* kind) const;

  const Api& api_;
  const KernelInfo* info_;
};

// A tensor somebody else owns.
struct Tensor {
  Dims dims;
  void* data;

  template <class T>
  T* As() const {
    return static_cast<T*>(data);
  }
};

Tensor ReadTensor(const Api& api, const Value* value);

// Memory for what a node packs, aligned for the kernels. Throws std::bad_alloc.
struct AlignedDelete {
  void operator()(void* memory) const;
};
using AlignedMemory = std::unique_ptr<void, AlignedDelete>;
AlignedMemory AllocateAligned(std::size_t bytes);

// Work is shared among threads where one of them would take longer than this, in microseconds.
// Waking another takes some ten of them, more where it has slept for long.
constexpr double kWorthSharing = 100;

// How many of `count` items make a piece of work: `grain` where sharing pays, else all of them.
inline std::int64_t PieceOf(std::int64_t count, double microseconds, std::int64_t grain) {
  return microseconds < kWorthSharing ? count : grain;
}

class ScratchMemory;

// Inputs, outputs and threads of one run of a node.
class NodeRun {
 public:
  NodeRun(const Api& api, KernelContext* context) : api_(api), context_(context) {}

  Tensor Input(std::size_t index) const;
  void* Output(std::size_t index, const Dims& dims) const;

  // Calls work(range) for the items 0..count in pieces of `grain`, on the threads of the session.
  // `work` must not throw.
  template <class Work>
  void ParallelFor(std::int64_t count, std::int64_t grain, const Work& work) const;

  // Memory from the session's arena, aligned for the kernels, valid as long as the result lives.
  ScratchMemory Scratch(std::size_t bytes) const;

 private:
  const Api& api_;
  KernelContext* context_;
};

class ScratchMemory {
 public:
  ScratchMemory(const Api& api, Allocator* allocator, std::size_t bytes);
  ~ScratchMemory();
  ScratchMemory(const ScratchMemory&) = delete;
  ScratchMemory& operator=(const ScratchMemory&) = delete;

  void* data() const { return data_; }

 private:
  const Api& api_;
  Allocator* allocator_;
  void* block_ = nullptr;
  void* data_ = nullptr;
};

template <class Work>
void NodeRun::ParallelFor(std::int64_t count, std::int64_t grain, const Work& work) const {
  if (count <= 0) return;
  struct Job {
    const Work& work;
    std::int64_t count;
    std::int64_t grain;
  };
  Job job{work, count, grain};
  const auto run_piece = [](void* data, std::size_t piece) {
    const Job& j = *static_cast<const Job*>(data);
    const std::int64_t begin = static_cast<std::int64_t>(piece) * j.grain;
    const std::int64_t end = begin + j.grain < j.count ? begin + j.grain : j.count;
    j.work(Range{begin, end});
  };
  const std::int64_t pieces = (count + grain - 1) / grain;
  Check(api_.KernelContext_ParallelFor(context_, run_piece, static_cast<std::size_t>(pieces), 0,
                                       &job));
}

// One dimension of a shape, before anything runs.
struct Dimension {
  std::int64_t size = -1;  // -1: not known
  std::string symbol;      // the name of an unknown one, or empty
};

// How many words so many channels take.
Dimension WordsFor(const Dimension& channels);

// Types and shapes of outputs, before anything runs.
//
// The runtime asks one overload of an op for all of them, so nothing here may depend on the types
// of the overload.
class ShapeInference {
 public:
  ShapeInference(const Api& api, ShapeInferContext* context) : api_(api), context_(context) {}

  // Gives output `output` the type and shape of input `input`, symbolic dimensions included.
  void CopyTypeAndShape(std::size_t input, std::size_t output) const;

  // The same with another type.
  void CopyShape(std::size_t input, std::size_t output, ElementType type) const;

  // The dimensions of an input; none at all where its rank is not known.
  std::vector<Dimension> Dimensions(std::size_t input) const;

  // Gives an output a type and dimensions.
  void SetShape(std::size_t output, ElementType type,
                const std::vector<Dimension>& dimensions) const;

 private:
  const Api& api_;
  ShapeInferContext* context_;
};

}  // namespace lif_op::ort
