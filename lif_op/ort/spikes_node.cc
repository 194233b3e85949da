#include "ort/spikes_node.h"

#include <cstdint>
#include <stdexcept>

#include "lif_op/check.h"

namespace lif_op::ort {
namespace {

// Rows per piece of work: some ten microseconds of 256 pixels and 32 channels.
constexpr std::int64_t kRows = 8;

std::int64_t Channels(const NodeInfo& info) {
  const std::int64_t channels = info.Int("channels");
  if (channels < 1 || channels > INT32_MAX) {
    throw std::invalid_argument("attribute 'channels' must be from 1 to " +
                                std::to_string(INT32_MAX) + ", got " + std::to_string(channels));
  }
  return channels;
}

// Rows without pixels may be any number.
std::int64_t Rows(const SpikeShape& shape) {
  return shape.width == 0 ? 0 : shape.batch * shape.height;
}

}  // namespace

PackSpikesNode::PackSpikesNode(const Api&, const NodeInfo& info, Target)
    : channels_(Channels(info)) {}

void PackSpikesNode::Compute(const NodeRun& run) const {
  const Tensor spikes = run.Input(0);
  const SpikeShape shape = CheckSpikes({"spikes", spikes.dims}, channels_);
  void* packed =
      run.Output(0, {shape.batch, shape.height, shape.width, lif_op::WordsFor(channels_)});
  run.ParallelFor(Rows(shape), kRows, [&](Range rows) {
    PackSpikes(shape, spikes.As<const std::uint8_t>(), static_cast<std::uint32_t*>(packed), rows);
  });
}

void PackSpikesNode::InferShapes(const ShapeInference& shapes) {
  const auto dims = shapes.Dimensions(0);
  if (dims.size() == 4) {
    shapes.SetShape(0, ElementType::kUint32, {dims[0], dims[2], dims[3], WordsFor(dims[1])});
  }
}

UnpackSpikesNode::UnpackSpikesNode(const Api&, const NodeInfo& info, Target)
    : channels_(Channels(info)) {}

void UnpackSpikesNode::Compute(const NodeRun& run) const {
  const Tensor packed = run.Input(0);
  const SpikeShape shape = CheckPackedSpikes({"packed", packed.dims}, channels_);
  void* spikes = run.Output(0, {shape.batch, channels_, shape.height, shape.width});
  run.ParallelFor(Rows(shape), kRows, [&](Range rows) {
    UnpackSpikes(shape, packed.As<const std::uint32_t>(), static_cast<std::uint8_t*>(spikes), rows);
  });
}

void UnpackSpikesNode::InferShapes(const ShapeInference& shapes) {
  const auto dims = shapes.Dimensions(0);
  // How many channels there are, an attribute says, which is not looked into here.
  if (dims.size() == 4) shapes.SetShape(0, ElementType::kUint8, {dims[0], {}, dims[1], dims[2]});
}

}  // namespace lif_op::ort
