// Reference: the integer neuron element by element.
#include "kernels/planes.h"
#include "kernels/qlif/qlif_contract.h"

namespace lif_op::scalar {
namespace {

template <Reset kReset, class Mem>
void Run(const QlifArgs<Mem>& args, Range range) {
  ForEachPlane(args.layout, range,
               [&args](std::int64_t channel, std::int64_t offset, std::int64_t count) {
                 QlifPlane<kReset>(args, channel, offset, count);
               });
}

template <class Mem>
void Dispatch(const QlifArgs<Mem>& args, Range range) {
  switch (args.reset) {
    case Reset::kZero:
      return Run<Reset::kZero>(args, range);
    case Reset::kSubtract:
      return Run<Reset::kSubtract>(args, range);
    case Reset::kNone:
      return Run<Reset::kNone>(args, range);
  }
}

}  // namespace

void Qlif(const QlifArgs<std::int16_t>& args, Range range) { Dispatch(args, range); }
void Qlif(const QlifArgs<std::int8_t>& args, Range range) { Dispatch(args, range); }

}  // namespace lif_op::scalar
