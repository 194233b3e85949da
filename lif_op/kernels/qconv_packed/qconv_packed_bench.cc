// Time of the flow head of LIFFireNet at 256x256 on one thread: from packed spikes, and as it is
// done without this kernel, by unpacking and a convolution of bytes.
#include <memory>
#include <new>
#include <vector>

#include "kernels/bench.h"
#include "kernels/testing.h"
#include "lif_op/qconv_packed.h"

namespace lif_op {
namespace {

constexpr std::int64_t kSide = 256;

struct AlignedDelete {
  void operator()(void* memory) const {
    ::operator delete(memory, std::align_val_t{kQconvAlignment});
  }
};

using AlignedMemory = std::unique_ptr<void, AlignedDelete>;

AlignedMemory Allocate(std::size_t bytes) {
  return AlignedMemory(::operator new(bytes + 1, std::align_val_t{kQconvAlignment}));
}

void Bench(const char* name, int percent) {
  const QconvShape shape{1, 32, kSide, kSide, 2, kSide, kSide, 1, 1, 1, 1, 0, 0};
  testing::Random random(1);
  const auto weight = random.Vector<std::int8_t>(64, -63, 63);
  const std::vector<std::int32_t> bias(2, 7);
  std::vector<std::uint32_t> words(kSide * kSide);
  for (std::uint32_t& word : words) {
    for (int bit = 0; bit < 32; ++bit) word |= std::uint32_t{random.Int(0, 99) < percent} << bit;
  }
  std::vector<std::int32_t> acc(2 * kSide * kSide);
  std::vector<std::uint8_t> bytes(32 * kSide * kSide);
  std::vector<bench::Candidate> packed;
  std::vector<bench::Candidate> unpacked;
  std::vector<AlignedMemory> memory;
  for (const Target target : SupportedTargets()) {
    const QconvPackedKernel& kernel = QconvPackedFor(target);
    memory.push_back(Allocate(kernel.weight_bytes(shape)));
    kernel.pack_weight(shape, weight.data(), memory.back().get());
    const QconvPackedArgs args{shape, words.data(), memory.back().get(), bias.data(), acc.data()};
    packed.push_back({target, [args, &kernel] { kernel.compute(args, {0, kSide}); }});
    const QconvKernel& separate = QconvFor(target);
    memory.push_back(Allocate(separate.weight_bytes(shape)));
    separate.pack_weight(shape, weight.data(), memory.back().get());
    const void* separate_weight = memory.back().get();
    memory.push_back(Allocate(separate.scratch_bytes(shape)));
    const QconvArgs after{shape,       bytes.data(), separate_weight,
                          bias.data(), acc.data(),   memory.back().get()};
    unpacked.push_back({target, [after, shape, &separate, &words, &bytes] {
                          UnpackSpikes({1, 32, kSide, kSide}, words.data(), bytes.data(),
                                       {0, kSide});
                          separate.pack_input(after, {0, separate.input_items(shape)});
                          separate.compute(after, {0, kSide});
                        }});
  }
  bench::Compare(std::string(name) + " packed", packed);
  bench::Compare(std::string(name) + " unpacked", unpacked);
}

}  // namespace
}  // namespace lif_op

int main() {
  lif_op::Bench("32>2 2%", 2);
  lif_op::Bench("32>2 20%", 20);
}
