// The reader of artifacts: any bytes as an ONNX file, and any metadata in front of a graph that
// fits the shipped network's. What is accepted must be usable: sizes can be counted, names differ.
#include <set>
#include <string>
#include <string_view>

#include "fuzz/input.h"
#include "spikedeploy/artifact.h"

namespace {

using fuzz::Demand;
using spikedeploy::Artifact;
using spikedeploy::State;
using spikedeploy::Status;
using spikedeploy::detail::OnnxFile;
using spikedeploy::detail::OnnxReader;

void CheckState(const State& state, bool free, std::set<std::string>* names) {
  Demand(names->insert(state.input).second, "two states share an input");
  Demand(names->insert(state.output).second, "two states share an output");
  Demand(state.shape.size() == 4, "a state of another rank was accepted");
  std::int64_t elements = 1;
  for (const std::int64_t size : state.Resolved(1, {64, 64})) {
    Demand(size >= 1 && size <= 1 << 16, "a state of a size that cannot be was accepted");
    Demand(!__builtin_mul_overflow(elements, size, &elements), "a state overflows");
  }
  for (const std::int64_t size : state.shape) {
    Demand(free || size != spikedeploy::kFreeHeight, "a free height in a file of fixed size");
  }
}

void CheckAccepted(const Artifact& artifact) {
  Demand(!artifact.states.empty(), "no states");
  Demand(artifact.num_bins >= 1 && artifact.num_bins <= 1024, "bins out of range");
  Demand(artifact.resolution.height >= 1 && artifact.resolution.width >= 1, "no resolution");
  std::set<std::string> names;
  for (const State& state : artifact.states) CheckState(state, artifact.spatial_free, &names);
}

void CheckRefused(const Status& status) {
  Demand(!status.message().empty(), "an error without a message");
  Demand(status.message().size() < 100000, "an endless message");
}

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  OnnxFile file;
  Status status = OnnxReader(&file).Read(bytes);
  Artifact artifact;
  if (status.ok()) status = Artifact::Parse(file, &artifact);
  if (status.ok()) {
    CheckAccepted(artifact);
  } else {
    CheckRefused(status);
  }
  return 0;
}
