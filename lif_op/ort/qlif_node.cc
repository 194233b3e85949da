#include "ort/qlif_node.h"

#include "lif_op/check.h"

namespace lif_op::ort {
namespace {

// Neurons per piece of work: some microseconds.
constexpr std::int64_t kGrain = 16384;

}  // namespace

template <class Mem>
QlifNode<Mem>::QlifNode(const Api&, const NodeInfo& info, Target target)
    : function_(QlifFor<Mem>(target)),
      frac_bits_(CheckFracBits(info.Int("frac_bits"), 8 * sizeof(Mem))),
      reset_(ResetFromName(info.String("reset"))) {}

template <class Mem>
void QlifNode<Mem>::Compute(const NodeRun& run) const {
  const Tensor acc = run.Input(0);
  const Tensor mem = run.Input(1);
  const Tensor decay = run.Input(2);
  const Tensor threshold = run.Input(3);
  const ChannelLayout layout = CheckNeuron({"acc", acc.dims}, {"mem", mem.dims});
  CheckParameter({"decay", decay.dims}, layout.channels, /*allow_unit_dims=*/false);
  CheckParameter({"threshold", threshold.dims}, layout.channels, /*allow_unit_dims=*/false);
  CheckDecay(decay.As<const std::int32_t>(), layout.channels);
  const QlifArgs<Mem> args{acc.As<const std::int32_t>(),
                           mem.As<const Mem>(),
                           decay.As<const std::int32_t>(),
                           threshold.As<const std::int32_t>(),
                           static_cast<std::uint8_t*>(run.Output(0, mem.dims)),
                           static_cast<Mem*>(run.Output(1, mem.dims)),
                           layout,
                           frac_bits_,
                           reset_};
  run.ParallelFor(layout.size, kGrain, [&](Range range) { function_(args, range); });
}

template <class Mem>
void QlifNode<Mem>::InferShapes(const ShapeInference& shapes) {
  shapes.CopyShape(1, 0, ElementType::kUint8);
  shapes.CopyTypeAndShape(1, 1);
}

template class QlifNode<std::int16_t>;
template class QlifNode<std::int8_t>;

}  // namespace lif_op::ort
