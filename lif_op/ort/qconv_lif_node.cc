#include "ort/qconv_lif_node.h"

#include <algorithm>
#include <atomic>

namespace lif_op::ort {
namespace {

// Rows of a piece of work: enough that the rows around a piece, which its neighbours look at too,
// cost little, and few enough that threads finish together.
constexpr std::int64_t kRows = 16;
constexpr std::int64_t kMaxPieces = 64;

// What a layer takes on one thread where many neurons fire.
double Microseconds(const QconvLifLayer& layer, std::int64_t macs_per_us) {
  constexpr double kMacsOfNeuron = 128;  // as many take as long as the neuron and its membrane
  const QconvShape& s = layer.shape;
  const auto x = static_cast<double>(s.in_channels * s.kernel_height * s.kernel_width);
  const auto previous =
      static_cast<double>(s.out_channels * layer.rec_kernel_height * layer.rec_kernel_width);
  const auto neurons = static_cast<double>(s.batch * s.out_height * s.out_width * s.out_channels);
  return neurons * (x + previous + kMacsOfNeuron) / static_cast<double>(macs_per_us);
}

// Scratch memory of the pieces that run at the same time. A piece takes the lowest place that is
// free, so that no more places are touched than threads are at work, and those stay in the cache.
class ScratchPlaces {
 public:
  ScratchPlaces(const NodeRun& run, std::int64_t places, std::size_t bytes)
      : bytes_((bytes + kQconvAlignment - 1) / kQconvAlignment * kQconvAlignment),
        memory_(run.Scratch(static_cast<std::size_t>(places) * bytes_)) {}

  // At most `places` pieces may hold one at a time.
  int Take() {
    std::uint64_t taken = taken_.load(std::memory_order_relaxed);
    int place = 0;
    do {
      place = __builtin_ctzll(~taken);
    } while (!taken_.compare_exchange_weak(taken, taken | std::uint64_t{1} << place,
                                           std::memory_order_acquire));
    return place;
  }

  void Return(int place) {
    taken_.fetch_and(~(std::uint64_t{1} << place), std::memory_order_release);
  }

  void* At(int place) const {
    return static_cast<std::uint8_t*>(memory_.data()) + static_cast<std::size_t>(place) * bytes_;
  }

 private:
  std::size_t bytes_;
  ScratchMemory memory_;
  std::atomic<std::uint64_t> taken_{0};
};

}  // namespace

template <class X, class Mem, bool kRecurrent>
struct QconvLifNode<X, Mem, kRecurrent>::Inputs {
  static constexpr std::size_t kCount = kRecurrent ? 8 : 6;
  static constexpr std::size_t kMem = kRecurrent ? 5 : 3;

  // Positions of the inputs that may be constants.
  static bool IsConstant(std::size_t i) { return i != 0 && i != kMem && !(kRecurrent && i == 3); }

  Tensor tensors[kCount];

  const Tensor& x() const { return tensors[0]; }
  const Tensor& weight() const { return tensors[1]; }
  const Tensor& bias() const { return tensors[2]; }
  const Tensor& spike_prev() const { return tensors[3]; }
  const Tensor& weight_rec() const { return tensors[4]; }
  const Tensor& mem() const { return tensors[kMem]; }
  const Tensor& decay() const { return tensors[kMem + 1]; }
  const Tensor& threshold() const { return tensors[kMem + 2]; }
};

template <class X, class Mem, bool kRecurrent>
QconvLifNode<X, Mem, kRecurrent>::QconvLifNode(const Api& api, const NodeInfo& info, Target target)
    : target_(target),
      strides_(info.Ints("strides")),
      pads_(info.Ints("pads")),
      frac_bits_(CheckFracBits(info.Int("frac_bits"), 8 * sizeof(Mem))),
      reset_(ResetFromName(info.String("reset"))) {
  CheckConvAttributes(strides_, pads_);
  Inputs inputs{};
  for (std::size_t i = 0; i < Inputs::kCount; ++i) {
    if (!Inputs::IsConstant(i)) continue;
    const Value* constant = info.ConstantInput(i);
    if (constant == nullptr) return;
    inputs.tensors[i] = ReadTensor(api, constant);
  }
  const QconvLifLayer layer = Layer(inputs, /*sized=*/false);
  constants_ = Pack(QconvLifFor<Mem>(target_, layer), layer);
}

template <class X, class Mem, bool kRecurrent>
QconvLifLayer QconvLifNode<X, Mem, kRecurrent>::Layer(const Inputs& inputs, bool sized) const {
  QconvLifDims dims{};
  dims.packed_x = kXType == ElementType::kUint32;
  dims.recurrent = kRecurrent;
  dims.x = inputs.x().dims;
  dims.weight = inputs.weight().dims;
  dims.bias = inputs.bias().dims;
  dims.mem = inputs.mem().dims;
  dims.decay = inputs.decay().dims;
  dims.threshold = inputs.threshold().dims;
  if constexpr (kRecurrent) {
    dims.spike_prev = inputs.spike_prev().dims;
    dims.weight_rec = inputs.weight_rec().dims;
  }
  QconvLifLayer layer =
      sized ? CheckQconvLif(dims, strides_, pads_) : CheckQconvLifConstants(dims, strides_, pads_);
  layer.weight = inputs.weight().template As<const std::int8_t>();
  layer.bias = inputs.bias().template As<const std::int32_t>();
  if constexpr (kRecurrent) layer.weight_rec = inputs.weight_rec().template As<const std::int8_t>();
  layer.decay = inputs.decay().template As<const std::int32_t>();
  layer.threshold = inputs.threshold().template As<const std::int32_t>();
  layer.frac_bits = frac_bits_;
  layer.reset = reset_;
  CheckDecay(layer.decay, layer.shape.out_channels);
  return layer;
}

template <class X, class Mem, bool kRecurrent>
AlignedMemory QconvLifNode<X, Mem, kRecurrent>::Pack(const QconvLifKernel<Mem>& kernel,
                                                     const QconvLifLayer& layer) {
  AlignedMemory packed = AllocateAligned(kernel.packed_bytes(layer));
  kernel.pack(layer, packed.get());
  return packed;
}

template <class X, class Mem, bool kRecurrent>
void QconvLifNode<X, Mem, kRecurrent>::Compute(const NodeRun& run) const {
  Inputs inputs{};
  for (std::size_t i = 0; i < Inputs::kCount; ++i) inputs.tensors[i] = run.Input(i);
  const QconvLifLayer layer = Layer(inputs, /*sized=*/true);
  const QconvLifKernel<Mem>& kernel = QconvLifFor<Mem>(target_, layer);
  const AlignedMemory packed = constants_ ? nullptr : Pack(kernel, layer);
  const QconvShape& shape = layer.shape;
  const Dims spike_dims = {shape.batch, shape.out_height, shape.out_width,
                           lif_op::WordsFor(shape.out_channels)};
  QconvLifArgs<Mem> args{};
  args.layer = layer;
  args.packed = constants_ ? constants_.get() : packed.get();
  args.x = inputs.x().data;
  if constexpr (kRecurrent) {
    args.spike_prev = inputs.spike_prev().template As<const std::uint32_t>();
  }
  args.mem = inputs.mem().template As<const Mem>();
  args.spike = static_cast<std::uint32_t*>(run.Output(0, spike_dims));
  args.mem_out = static_cast<Mem*>(run.Output(1, inputs.mem().dims));
  const std::int64_t rows = shape.batch * shape.out_height;
  if (rows == 0 || shape.out_width == 0) return;
  const std::int64_t grain = PieceOf(rows, Microseconds(layer, kernel.macs_per_us),
                                     std::max(kRows, (rows + kMaxPieces - 1) / kMaxPieces));
  ScratchPlaces scratch(run, (rows + grain - 1) / grain, kernel.scratch_bytes(layer));
  run.ParallelFor(rows, grain, [&](Range range) {
    const int place = scratch.Take();
    kernel.compute(args, range, scratch.At(place));
    scratch.Return(place);
  });
}

template <class X, class Mem, bool kRecurrent>
void QconvLifNode<X, Mem, kRecurrent>::InferShapes(const ShapeInference& shapes) {
  constexpr std::size_t mem = Inputs::kMem;
  const auto dims = shapes.Dimensions(mem);
  if (dims.size() == 4) {
    shapes.SetShape(0, ElementType::kUint32, {dims[0], dims[1], dims[2], WordsFor(dims[3])});
  }
  shapes.CopyTypeAndShape(mem, 1);
}

template class QconvLifNode<std::uint8_t, std::int16_t, false>;
template class QconvLifNode<std::uint8_t, std::int8_t, false>;
template class QconvLifNode<std::uint32_t, std::int16_t, false>;
template class QconvLifNode<std::uint32_t, std::int8_t, false>;
template class QconvLifNode<std::uint8_t, std::int16_t, true>;
template class QconvLifNode<std::uint8_t, std::int8_t, true>;
template class QconvLifNode<std::uint32_t, std::int16_t, true>;
template class QconvLifNode<std::uint32_t, std::int8_t, true>;

}  // namespace lif_op::ort
