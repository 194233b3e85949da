// Time of the convolutions of a LIFFireNet at 256x256, on one thread: the input's packing included,
// the weight's not.
#include <memory>
#include <string>
#include <vector>

#include "kernels/bench.h"
#include "kernels/testing.h"
#include "lif_op/check.h"
#include "lif_op/qconv.h"

namespace lif_op {
namespace {

struct Layer {
  const char* name;
  std::int64_t in_channels, out_channels, kernel;
  int percent_active;
};

const Layer kLayers[] = {{"qconv 2->32 3x3", 2, 32, 3, 10},
                         {"qconv 32->32 3x3 dense", 32, 32, 3, 50},
                         {"qconv 32->32 3x3 2 %", 32, 32, 3, 2},
                         {"qconv 32->32 3x3 silent", 32, 32, 3, 0},
                         {"qconv 32->2 1x1", 32, 2, 1, 10}};

struct AlignedDelete {
  void operator()(void* memory) const {
    ::operator delete(memory, std::align_val_t{kQconvAlignment});
  }
};
using Memory = std::unique_ptr<void, AlignedDelete>;

Memory Allocate(std::size_t bytes) {
  return Memory(::operator new(bytes, std::align_val_t{kQconvAlignment}));
}

void Bench(const Layer& layer) {
  const std::int64_t pad = layer.kernel / 2;
  const QconvShape shape =
      CheckQconv({1, layer.in_channels, 256, 256},
                 {layer.out_channels, layer.in_channels, layer.kernel, layer.kernel},
                 {layer.out_channels}, {1, 1}, {pad, pad, pad, pad});
  testing::Random random(1);
  std::vector<std::uint8_t> x;
  for (std::int64_t i = 0; i < layer.in_channels * 256 * 256; ++i) {
    x.push_back(random.Int(0, 99) < layer.percent_active ? 1 : 0);
  }
  const auto weight = random.Vector<std::int8_t>(
      layer.out_channels * layer.in_channels * layer.kernel * layer.kernel, -63, 63);
  const std::vector<std::int32_t> bias(static_cast<std::size_t>(layer.out_channels), 1);
  std::vector<std::int32_t> acc(static_cast<std::size_t>(layer.out_channels * 256 * 256));

  std::vector<Memory> memory;
  std::vector<bench::Candidate> candidates;
  for (const Target target : SupportedTargets()) {
    const QconvKernel& kernel = QconvFor(target);
    memory.push_back(Allocate(kernel.weight_bytes(shape)));
    void* packed = memory.back().get();
    kernel.pack_weight(shape, weight.data(), packed);
    memory.push_back(Allocate(kernel.scratch_bytes(shape)));
    const QconvArgs args{shape, x.data(), packed, bias.data(), acc.data(), memory.back().get()};
    candidates.push_back({target, [&kernel, args] {
                            kernel.pack_input(args, {0, kernel.input_items(args.shape)});
                            kernel.compute(args, {0, args.shape.out_height});
                          }});
  }
  bench::Compare(layer.name, candidates, 11);
}

}  // namespace
}  // namespace lif_op

int main() {
  for (const lif_op::Layer& layer : lif_op::kLayers) lif_op::Bench(layer);
}
