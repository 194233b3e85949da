// Python module lif_op._core: the kernels on NumPy arrays, without ONNX Runtime. Made for tests and
// for looking at a single step by hand.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "lif_op/check.h"
#include "lif_op/lif.h"
#include "lif_op/peak.h"
#include "lif_op/qconv.h"
#include "lif_op/qconv_lif.h"
#include "lif_op/qconv_packed.h"
#include "lif_op/qlif.h"
#include "lif_op/spikes.h"
#include "lif_op/target.h"

namespace py = pybind11;

namespace lif_op {
namespace {

template <class T>
using Array = py::array_t<T, py::array::c_style>;

template <class T>
Dims DimsOf(const Array<T>& array) {
  return Dims(array.shape(), array.shape() + array.ndim());
}

Target TargetOrActive(const std::string& name) {
  return name.empty() ? ActiveTarget() : TargetFromName(name);
}

// Work items 0..count in `parts` pieces, the last one first: what a kernel does for a piece must
// not depend on the pieces before it.
template <class Work>
void InParts(std::int64_t count, std::int64_t parts, const Work& work) {
  if (parts < 1) throw std::invalid_argument("parts must be at least 1");
  for (std::int64_t part = parts - 1; part >= 0; --part) {
    work(Range{count * part / parts, count * (part + 1) / parts});
  }
}

// The array itself where the caller asks for work in place, else a new one.
template <class T>
Array<T> MembraneOutput(const Array<T>& mem, bool in_place) {
  return in_place ? mem : Array<T>(DimsOf(mem));
}

py::tuple Lif(const Array<float>& current, const Array<float>& mem, const Array<float>& beta,
              const Array<float>& threshold, const std::string& reset, const std::string& target,
              std::int64_t parts, bool in_place, bool foreign) {
  const Target chosen = TargetOrActive(target);
  const ChannelLayout layout = CheckNeuron({"current", DimsOf(current)}, {"mem", DimsOf(mem)});
  CheckParameter({"beta", DimsOf(beta)}, layout.channels, foreign);
  CheckParameter({"threshold", DimsOf(threshold)}, layout.channels, foreign);
  Array<float> spike(DimsOf(mem));
  Array<float> mem_out = MembraneOutput(mem, in_place);
  const LifArgs args{current.data(),   mem.data(),           beta.data(),
                     threshold.data(), spike.mutable_data(), mem_out.mutable_data(),
                     layout,           ResetFromName(reset)};
  const LifFunction function = foreign ? ForeignLifFor(chosen) : LifFor(chosen);
  {
    const py::gil_scoped_release unlocked;
    InParts(layout.size, parts, [&](Range range) { function(args, range); });
  }
  return py::make_tuple(spike, mem_out);
}

py::tuple CanonicalLif(const Array<float>& current, const Array<float>& mem,
                       const Array<float>& beta, const Array<float>& threshold,
                       const std::string& reset, const std::string& target, std::int64_t parts,
                       bool in_place) {
  return Lif(current, mem, beta, threshold, reset, target, parts, in_place, /*foreign=*/false);
}

py::tuple ForeignLif(const Array<float>& current, const Array<float>& mem, const Array<float>& beta,
                     const Array<float>& threshold, const std::string& target, std::int64_t parts,
                     bool in_place) {
  return Lif(current, mem, beta, threshold, "zero", target, parts, in_place, /*foreign=*/true);
}

template <class Mem>
py::tuple Qlif(const Array<std::int32_t>& acc, const Array<Mem>& mem,
               const Array<std::int32_t>& decay, const Array<std::int32_t>& threshold,
               std::int64_t frac_bits, const std::string& reset, const std::string& target,
               std::int64_t parts, bool in_place) {
  const Target chosen = TargetOrActive(target);
  const ChannelLayout layout = CheckNeuron({"acc", DimsOf(acc)}, {"mem", DimsOf(mem)});
  CheckParameter({"decay", DimsOf(decay)}, layout.channels, /*allow_unit_dims=*/false);
  CheckParameter({"threshold", DimsOf(threshold)}, layout.channels, /*allow_unit_dims=*/false);
  CheckDecay(decay.data(), layout.channels);
  Array<std::uint8_t> spike(DimsOf(mem));
  Array<Mem> mem_out = MembraneOutput(mem, in_place);
  const QlifArgs<Mem> args{acc.data(),
                           mem.data(),
                           decay.data(),
                           threshold.data(),
                           spike.mutable_data(),
                           mem_out.mutable_data(),
                           layout,
                           CheckFracBits(frac_bits, 8 * sizeof(Mem)),
                           ResetFromName(reset)};
  {
    const py::gil_scoped_release unlocked;
    InParts(layout.size, parts, [&](Range range) { QlifFor<Mem>(chosen)(args, range); });
  }
  return py::make_tuple(spike, mem_out);
}

struct AlignedDelete {
  void operator()(void* memory) const {
    ::operator delete(memory, std::align_val_t{kQconvAlignment});
  }
};
using AlignedMemory = std::unique_ptr<void, AlignedDelete>;

AlignedMemory Allocate(std::size_t bytes) {
  return AlignedMemory(::operator new(bytes, std::align_val_t{kQconvAlignment}));
}

Array<std::int32_t> Qconv(const Array<std::uint8_t>& x, const Array<std::int8_t>& weight,
                          const Array<std::int32_t>& bias, const Dims& strides, const Dims& pads,
                          const std::string& target, std::int64_t parts) {
  const QconvKernel& kernel = QconvFor(TargetOrActive(target));
  const QconvShape shape = CheckQconv(DimsOf(x), DimsOf(weight), DimsOf(bias), strides, pads);
  Array<std::int32_t> acc(Dims{shape.batch, shape.out_channels, shape.out_height, shape.out_width});
  const AlignedMemory packed = Allocate(kernel.weight_bytes(shape));
  const AlignedMemory scratch = Allocate(kernel.scratch_bytes(shape));
  const QconvArgs args{shape,       x.data(),           packed.get(),
                       bias.data(), acc.mutable_data(), scratch.get()};
  {
    const py::gil_scoped_release unlocked;
    kernel.pack_weight(shape, weight.data(), packed.get());
    InParts(kernel.input_items(shape), parts, [&](Range items) { kernel.pack_input(args, items); });
    InParts(shape.batch * shape.out_height, parts, [&](Range rows) { kernel.compute(args, rows); });
  }
  return acc;
}

Array<std::int32_t> QconvPacked(const Array<std::uint32_t>& x, const Array<std::int8_t>& weight,
                                const Array<std::int32_t>& bias, const Dims& strides,
                                const Dims& pads, const std::string& target, std::int64_t parts) {
  const QconvPackedKernel& kernel = QconvPackedFor(TargetOrActive(target));
  const QconvShape shape = CheckQconvPacked(DimsOf(x), DimsOf(weight), DimsOf(bias), strides, pads);
  Array<std::int32_t> acc(Dims{shape.batch, shape.out_channels, shape.out_height, shape.out_width});
  const AlignedMemory packed = Allocate(kernel.weight_bytes(shape));
  const QconvPackedArgs args{shape, x.data(), packed.get(), bias.data(), acc.mutable_data()};
  {
    const py::gil_scoped_release unlocked;
    kernel.pack_weight(shape, weight.data(), packed.get());
    InParts(shape.batch * shape.out_height, parts, [&](Range rows) { kernel.compute(args, rows); });
  }
  return acc;
}

// What both fused layers take besides their tensors.
struct QconvLifOptions {
  const Dims& strides;
  const Dims& pads;
  std::int64_t frac_bits;
  const std::string& reset;
  const std::string& target;
  std::int64_t parts;
  bool in_place;
};

// The previous spikes of a layer and their weights.
struct Recurrence {
  const Array<std::uint32_t>& spike_prev;
  const Array<std::int8_t>& weight_rec;
};

template <class X, class Mem>
py::tuple RunQconvLif(const Array<X>& x, const Array<std::int8_t>& weight,
                      const Array<std::int32_t>& bias, const Recurrence* own, const Array<Mem>& mem,
                      const Array<std::int32_t>& decay, const Array<std::int32_t>& threshold,
                      const QconvLifOptions& options) {
  const Target target = TargetOrActive(options.target);
  QconvLifDims dims{};
  dims.packed_x = sizeof(X) == sizeof(std::uint32_t);
  dims.recurrent = own != nullptr;
  dims.x = DimsOf(x);
  dims.weight = DimsOf(weight);
  dims.bias = DimsOf(bias);
  dims.mem = DimsOf(mem);
  dims.decay = DimsOf(decay);
  dims.threshold = DimsOf(threshold);
  if (own != nullptr) {
    dims.spike_prev = DimsOf(own->spike_prev);
    dims.weight_rec = DimsOf(own->weight_rec);
  }
  QconvLifLayer layer = CheckQconvLif(dims, options.strides, options.pads);
  CheckDecay(decay.data(), layer.shape.out_channels);
  layer.weight = weight.data();
  layer.bias = bias.data();
  layer.weight_rec = own == nullptr ? nullptr : own->weight_rec.data();
  layer.decay = decay.data();
  layer.threshold = threshold.data();
  layer.frac_bits = CheckFracBits(options.frac_bits, 8 * sizeof(Mem));
  layer.reset = ResetFromName(options.reset);
  const QconvShape& shape = layer.shape;
  Array<std::uint32_t> spike(
      Dims{shape.batch, shape.out_height, shape.out_width, WordsFor(shape.out_channels)});
  Array<Mem> mem_out = MembraneOutput(mem, options.in_place);
  const QconvLifKernel<Mem>& kernel = QconvLifFor<Mem>(target, layer);
  const AlignedMemory packed = Allocate(kernel.packed_bytes(layer));
  const AlignedMemory scratch = Allocate(kernel.scratch_bytes(layer));
  const QconvLifArgs<Mem> args{layer,
                               packed.get(),
                               x.data(),
                               own == nullptr ? nullptr : own->spike_prev.data(),
                               mem.data(),
                               spike.mutable_data(),
                               mem_out.mutable_data()};
  {
    const py::gil_scoped_release unlocked;
    kernel.pack(layer, packed.get());
    InParts(shape.batch * shape.out_height, options.parts,
            [&](Range rows) { kernel.compute(args, rows, scratch.get()); });
  }
  return py::make_tuple(spike, mem_out);
}

template <class X, class Mem>
py::tuple QconvLif(const Array<X>& x, const Array<std::int8_t>& weight,
                   const Array<std::int32_t>& bias, const Array<Mem>& mem,
                   const Array<std::int32_t>& decay, const Array<std::int32_t>& threshold,
                   const Dims& strides, const Dims& pads, std::int64_t frac_bits,
                   const std::string& reset, const std::string& target, std::int64_t parts,
                   bool in_place) {
  return RunQconvLif<X, Mem>(x, weight, bias, nullptr, mem, decay, threshold,
                             {strides, pads, frac_bits, reset, target, parts, in_place});
}

template <class X, class Mem>
py::tuple QconvLifRec(const Array<X>& x, const Array<std::int8_t>& weight,
                      const Array<std::int32_t>& bias, const Array<std::uint32_t>& spike_prev,
                      const Array<std::int8_t>& weight_rec, const Array<Mem>& mem,
                      const Array<std::int32_t>& decay, const Array<std::int32_t>& threshold,
                      const Dims& strides, const Dims& pads, std::int64_t frac_bits,
                      const std::string& reset, const std::string& target, std::int64_t parts,
                      bool in_place) {
  const Recurrence own{spike_prev, weight_rec};
  return RunQconvLif<X, Mem>(x, weight, bias, &own, mem, decay, threshold,
                             {strides, pads, frac_bits, reset, target, parts, in_place});
}

Array<std::uint32_t> Pack(const Array<std::uint8_t>& spikes, std::int64_t parts) {
  const Dims dims = DimsOf(spikes);
  const SpikeShape shape = CheckSpikes({"spikes", dims}, dims.size() < 2 ? 1 : dims[1]);
  Array<std::uint32_t> packed(
      Dims{shape.batch, shape.height, shape.width, WordsFor(shape.channels)});
  InParts(shape.batch * shape.height, parts,
          [&](Range rows) { PackSpikes(shape, spikes.data(), packed.mutable_data(), rows); });
  return packed;
}

Array<std::uint8_t> Unpack(const Array<std::uint32_t>& packed, std::int64_t channels,
                           std::int64_t parts) {
  if (channels < 1) throw std::invalid_argument("channels must be at least 1");
  const SpikeShape shape = CheckPackedSpikes({"packed", DimsOf(packed)}, channels);
  Array<std::uint8_t> spikes(Dims{shape.batch, channels, shape.height, shape.width});
  InParts(shape.batch * shape.height, parts,
          [&](Range rows) { UnpackSpikes(shape, packed.data(), spikes.mutable_data(), rows); });
  return spikes;
}

std::vector<std::string> TargetNames() {
  std::vector<std::string> names;
  for (const Target target : SupportedTargets()) names.emplace_back(TargetName(target));
  return names;
}

py::list PeakTuples() {
  py::list tuples;
  for (const Peak& peak : PeaksHere()) {
    tuples.append(py::make_tuple(peak.instruction, peak.target, peak.operands, peak.macs));
  }
  return tuples;
}

void RunPeak(const std::string& instruction, std::int64_t rounds) {
  for (const Peak& peak : PeaksHere()) {
    if (instruction != peak.instruction) continue;
    const py::gil_scoped_release unlocked;
    return peak.run(rounds);
  }
  throw std::invalid_argument("there is no peak of '" + instruction + "' on this machine");
}

void Stream(Array<std::int16_t>& mem) {
  std::int16_t* const data = mem.mutable_data();
  const std::int64_t count = mem.size();
  const py::gil_scoped_release unlocked;
  StreamMembranes(data, count);
}

// Arrays are taken as they are: a wrong type is an error, never a silent conversion.
void DefineLif(py::module_& module) {
  module.def("lif", CanonicalLif, py::arg("current").noconvert(), py::arg("mem").noconvert(),
             py::arg("beta").noconvert(), py::arg("threshold").noconvert(),
             py::arg("reset") = "zero", py::kw_only(), py::arg("target") = "", py::arg("parts") = 1,
             py::arg("in_place") = false, "snn::LIF: (spike, mem_out), float32 [N, C, ...].");
  module.def("foreign_lif", ForeignLif, py::arg("current").noconvert(), py::arg("mem").noconvert(),
             py::arg("beta").noconvert(), py::arg("threshold").noconvert(), py::kw_only(),
             py::arg("target") = "", py::arg("parts") = 1, py::arg("in_place") = false,
             "SNN_implementation::LIF: (spike, mem_out), float32 [N, C, ...].");
}

template <class Mem>
void DefineQlif(py::module_& module) {
  module.def("qlif", Qlif<Mem>, py::arg("acc").noconvert(), py::arg("mem").noconvert(),
             py::arg("decay").noconvert(), py::arg("threshold").noconvert(),
             py::arg("frac_bits") = 0, py::arg("reset") = "zero", py::kw_only(),
             py::arg("target") = "", py::arg("parts") = 1, py::arg("in_place") = false,
             "snn::QLIF: (spike uint8, mem_out of mem's type), [N, C, ...].");
}

void DefineQconv(py::module_& module) {
  module.def("qconv", Qconv, py::arg("x").noconvert(), py::arg("weight").noconvert(),
             py::arg("bias").noconvert(), py::arg("strides") = Dims{1, 1},
             py::arg("pads") = Dims{0, 0, 0, 0}, py::kw_only(), py::arg("target") = "",
             py::arg("parts") = 1, "snn::QConv: acc int32 [N, Cout, Ho, Wo].");
  module.def("qconv", QconvPacked, py::arg("x").noconvert(), py::arg("weight").noconvert(),
             py::arg("bias").noconvert(), py::arg("strides") = Dims{1, 1},
             py::arg("pads") = Dims{0, 0, 0, 0}, py::kw_only(), py::arg("target") = "",
             py::arg("parts") = 1, "snn::QConv of packed spikes uint32 [N, H, W, words].");
}

template <class X, class Mem>
void DefineQconvLif(py::module_& module) {
  module.def("qconv_lif", QconvLif<X, Mem>, py::arg("x").noconvert(), py::arg("weight").noconvert(),
             py::arg("bias").noconvert(), py::arg("mem").noconvert(), py::arg("decay").noconvert(),
             py::arg("threshold").noconvert(), py::arg("strides") = Dims{1, 1},
             py::arg("pads") = Dims{0, 0, 0, 0}, py::arg("frac_bits") = 0,
             py::arg("reset") = "zero", py::kw_only(), py::arg("target") = "", py::arg("parts") = 1,
             py::arg("in_place") = false,
             "snn::QConvLIF: (spike uint32 [N, Ho, Wo, words], mem_out of mem's type).");
  module.def(
      "qconv_lif_rec", QconvLifRec<X, Mem>, py::arg("x").noconvert(), py::arg("weight").noconvert(),
      py::arg("bias").noconvert(), py::arg("spike_prev").noconvert(),
      py::arg("weight_rec").noconvert(), py::arg("mem").noconvert(), py::arg("decay").noconvert(),
      py::arg("threshold").noconvert(), py::arg("strides") = Dims{1, 1},
      py::arg("pads") = Dims{0, 0, 0, 0}, py::arg("frac_bits") = 0, py::arg("reset") = "zero",
      py::kw_only(), py::arg("target") = "", py::arg("parts") = 1, py::arg("in_place") = false,
      "snn::QConvLIFRec: (spike uint32 [N, Ho, Wo, words], mem_out of mem's type).");
}

void DefineSpikes(py::module_& module) {
  module.def("pack_spikes", Pack, py::arg("spikes").noconvert(), py::kw_only(),
             py::arg("parts") = 1,
             "snn::PackSpikes: uint8 [N, C, H, W] to uint32 [N, H, W, words].");
  module.def("unpack_spikes", Unpack, py::arg("packed").noconvert(), py::arg("channels"),
             py::kw_only(), py::arg("parts") = 1,
             "snn::UnpackSpikes: uint32 [N, H, W, words] to uint8 [N, C, H, W].");
}

void DefinePeaks(py::module_& module) {
  module.def("peaks", PeakTuples,
             "What this core can multiply at most: (instruction, target, operands, "
             "multiply-accumulates per round), slowest first.");
  module.def("run_peak", RunPeak, py::arg("instruction"), py::arg("rounds"),
             "Run rounds of multiply-accumulates, to be timed.");
  module.def("stream", Stream, py::arg("mem").noconvert(),
             "Read, change and write every membrane, int16, in place.");
}

}  // namespace
}  // namespace lif_op

PYBIND11_MODULE(_core, module) {
  module.doc() =
      "The kernels of the op library on NumPy arrays.\n\n"
      "`target` names the instruction set (empty: the active one), `parts` splits the work the way "
      "threads would, `in_place` writes the membrane over its input.";
  module.def("targets", lif_op::TargetNames, "Targets this CPU can run, slowest first.");
  module.def(
      "active_target", [] { return lif_op::TargetName(lif_op::ActiveTarget()); },
      "The target in use: LIF_OP_TARGET or the fastest.");
  lif_op::DefineLif(module);
  lif_op::DefineQlif<std::int16_t>(module);
  lif_op::DefineQlif<std::int8_t>(module);
  lif_op::DefineQconv(module);
  lif_op::DefineQconvLif<std::uint8_t, std::int16_t>(module);
  lif_op::DefineQconvLif<std::uint8_t, std::int8_t>(module);
  lif_op::DefineQconvLif<std::uint32_t, std::int16_t>(module);
  lif_op::DefineQconvLif<std::uint32_t, std::int8_t>(module);
  lif_op::DefineSpikes(module);
  lif_op::DefinePeaks(module);
}
