// Reference: the float neuron element by element.
#include "kernels/lif/lif_contract.h"
#include "kernels/planes.h"

namespace lif_op::scalar {
namespace {

template <FireRule kRule, Reset kReset>
void Run(const LifArgs& args, Range range) {
  ForEachPlane(args.layout, range,
               [&args](std::int64_t channel, std::int64_t offset, std::int64_t count) {
                 const float beta = args.beta[channel];
                 const float threshold = args.threshold[channel];
                 for (std::int64_t i = offset; i < offset + count; ++i) {
                   LifNeuron<kRule, kReset>(args.current[i], args.mem[i], beta, threshold,
                                            &args.spike[i], &args.mem_out[i]);
                 }
               });
}

}  // namespace

void Lif(const LifArgs& args, Range range) {
  switch (args.reset) {
    case Reset::kZero:
      return Run<FireRule::kAbove, Reset::kZero>(args, range);
    case Reset::kSubtract:
      return Run<FireRule::kAbove, Reset::kSubtract>(args, range);
    case Reset::kNone:
      return Run<FireRule::kAbove, Reset::kNone>(args, range);
  }
}

void ForeignLif(const LifArgs& args, Range range) {
  Run<FireRule::kAtOrAbove, Reset::kZero>(args, range);
}

}  // namespace lif_op::scalar
