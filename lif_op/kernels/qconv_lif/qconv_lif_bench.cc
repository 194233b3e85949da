// Time of one step of a fused layer, on one thread: the layers of LIFFireNet at 256x256, at several
// densities of spikes.
#include <cstdio>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "kernels/bench.h"
#include "kernels/testing.h"
#include "lif_op/qconv_lif.h"

namespace lif_op {
namespace {

constexpr std::int64_t kSide = 256;
constexpr std::int64_t kPixels = kSide * kSide;

struct AlignedDelete {
  void operator()(void* memory) const {
    ::operator delete(memory, std::align_val_t{kQconvAlignment});
  }
};

using AlignedMemory = std::unique_ptr<void, AlignedDelete>;

AlignedMemory Allocate(std::size_t bytes) {
  return AlignedMemory(::operator new(bytes + 1, std::align_val_t{kQconvAlignment}));
}

struct Setting {
  const char* name;
  bool counts;
  bool recurrent;
  int weight_limit;
  int percent;     // of the spikes
  bool clustered;  // the spikes lie in a tenth of the rows' 32-pixel blocks
};

std::vector<std::uint32_t> Spikes(testing::Random& random, const Setting& s) {
  std::vector<std::uint32_t> words(kPixels);
  for (std::int64_t pixel = 0; pixel < kPixels; pixel += 32) {
    const bool quiet = s.clustered && random.Int(0, 9) > 0;
    for (std::int64_t i = pixel; i < pixel + 32 && !quiet; ++i) {
      for (int bit = 0; bit < 32; ++bit) {
        const bool fires = random.Int(0, 99) < (s.clustered ? 10 * s.percent : s.percent);
        if (fires) words[static_cast<std::size_t>(i)] |= 1u << bit;
      }
    }
  }
  return words;
}

template <class Mem>
void Bench(const Setting& s) {
  testing::Random random(1);
  const std::int64_t inputs = s.counts ? 2 : 32;
  const auto weight = random.Vector<std::int8_t>(32 * inputs * 9, -s.weight_limit, s.weight_limit);
  const auto weight_rec = random.Vector<std::int8_t>(32 * 32 * 9, -s.weight_limit, s.weight_limit);
  const auto bias = random.Vector<std::int32_t>(32, -50, 50);
  const std::vector<std::int32_t> decay(32, 230);
  const std::vector<std::int32_t> threshold(32, sizeof(Mem) == 1 ? 60 : 500);
  const auto counts = random.Vector<std::uint8_t>(inputs * kPixels, 0, 3);
  const auto words = Spikes(random, s);
  const auto previous = Spikes(random, s);
  std::vector<Mem> mem(32 * kPixels);
  std::vector<std::uint32_t> spike(kPixels);
  QconvLifLayer layer{};
  layer.shape = {1, inputs, kSide, kSide, 32, kSide, kSide, 3, 3, 1, 1, 1, 1};
  layer.packed_x = !s.counts;
  layer.weight = weight.data();
  layer.bias = bias.data();
  layer.decay = decay.data();
  layer.threshold = threshold.data();
  layer.frac_bits = sizeof(Mem) == 1 ? -3 : 0;
  layer.reset = Reset::kZero;
  if (s.recurrent) {
    layer.rec_kernel_height = layer.rec_kernel_width = 3;
    layer.weight_rec = weight_rec.data();
  }
  std::vector<bench::Candidate> candidates;
  std::vector<AlignedMemory> memory;
  for (const Target target : SupportedTargets()) {
    if (target == Target::kScalar) continue;  // minutes
    const QconvLifKernel<Mem>& kernel = QconvLifFor<Mem>(target, layer);
    memory.push_back(Allocate(kernel.packed_bytes(layer)));
    kernel.pack(layer, memory.back().get());
    const QconvLifArgs<Mem> args{
        layer,
        memory.back().get(),
        s.counts ? static_cast<const void*>(counts.data()) : static_cast<const void*>(words.data()),
        s.recurrent ? previous.data() : nullptr,
        mem.data(),
        spike.data(),
        mem.data()};
    memory.push_back(Allocate(kernel.scratch_bytes(layer)));
    void* scratch = memory.back().get();
    candidates.push_back(
        {target, [args, &kernel, scratch] { kernel.compute(args, {0, kSide}, scratch); }});
  }
  bench::Compare(std::string(s.name) + " mem" + std::to_string(8 * sizeof(Mem)), candidates, 15);
}

const Setting kSettings[] = {
    {"head 2>32", true, false, 63, 0, false},
    {"32>32 silent", false, false, 63, 0, false},
    {"32>32 2% clustered", false, false, 63, 2, true},
    {"32>32 2%", false, false, 63, 2, false},
    {"32>32 20%", false, false, 63, 20, false},
    {"32>32 100%", false, false, 63, 100, false},
    {"32>32 8-bit weights 20%", false, false, 127, 20, false},
    {"32>32 recurrent 20%", false, true, 63, 20, false},
};

}  // namespace
}  // namespace lif_op

int main() {
  for (const lif_op::Setting& setting : lif_op::kSettings) {
    lif_op::Bench<std::int16_t>(setting);
    lif_op::Bench<std::int8_t>(setting);
  }
}
