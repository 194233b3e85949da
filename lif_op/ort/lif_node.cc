#include "ort/lif_node.h"

#include "lif_op/check.h"

namespace lif_op::ort {
namespace {

// Neurons per piece of work: some microseconds.
constexpr std::int64_t kGrain = 16384;

struct ParameterRules {
  const char* current_name;
  bool allow_unit_dims;
};

void Run(const NodeRun& run, LifFunction function, Reset reset, const ParameterRules& rules) {
  const Tensor current = run.Input(0);
  const Tensor mem = run.Input(1);
  const Tensor beta = run.Input(2);
  const Tensor threshold = run.Input(3);
  const ChannelLayout layout = CheckNeuron({rules.current_name, current.dims}, {"mem", mem.dims});
  CheckParameter({"beta", beta.dims}, layout.channels, rules.allow_unit_dims);
  CheckParameter({"threshold", threshold.dims}, layout.channels, rules.allow_unit_dims);
  const LifArgs args{current.As<const float>(),
                     mem.As<const float>(),
                     beta.As<const float>(),
                     threshold.As<const float>(),
                     static_cast<float*>(run.Output(0, mem.dims)),
                     static_cast<float*>(run.Output(1, mem.dims)),
                     layout,
                     reset};
  run.ParallelFor(layout.size, kGrain, [&](Range range) { function(args, range); });
}

}  // namespace

LifNode::LifNode(const Api&, const NodeInfo& info, Target target)
    : function_(LifFor(target)), reset_(ResetFromName(info.String("reset"))) {}

void LifNode::Compute(const NodeRun& run) const {
  Run(run, function_, reset_, {"current", /*allow_unit_dims=*/false});
}

void LifNode::InferShapes(const ShapeInference& shapes) {
  shapes.CopyTypeAndShape(1, 0);
  shapes.CopyTypeAndShape(1, 1);
}

ForeignLifNode::ForeignLifNode(const Api&, const NodeInfo&, Target target)
    : function_(ForeignLifFor(target)) {}

void ForeignLifNode::Compute(const NodeRun& run) const {
  Run(run, function_, Reset::kZero, {"input", /*allow_unit_dims=*/true});
}

void ForeignLifNode::InferShapes(const ShapeInference& shapes) { LifNode::InferShapes(shapes); }

}  // namespace lif_op::ort
