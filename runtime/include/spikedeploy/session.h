// Drive an artifact step by step from C++.
//
//   spikedeploy::Session session("model.int8.onnx");
//   spikedeploy::Stream stream(session, {256, 256});
//   spikedeploy::EventAccumulator<std::uint8_t> events({256, 256});
//   ... events.Add(x, y, brighter) ...
//   const spikedeploy::FlowView flow = stream.Step(events);
//   const float right = flow.x(row, column) * flow.scaling;  // pixels per window
//
// States live in buffers that are bound to the graph once; a step copies the events in and runs.
// A membrane is updated in its own buffer where that is safe: where the op library's kernels run,
// and nothing but the neuron that updates it reads it. Everything else alternates between two
// buffers. Results equal those of runtime.session.StatefulSession bit for bit.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "spikedeploy/artifact.h"
#include "spikedeploy/events.h"
#include "spikedeploy/onnx_file.h"
#include "spikedeploy/onnxruntime.h"
#include "spikedeploy/status.h"

namespace spikedeploy {

/// Whether the native kernels run the neurons, or the function bodies inside the file.
enum class Library {
  kAuto,     ///< the op library where it is found; results are the same without, only slower
  kNever,    ///< function bodies
  kRequire,  ///< a missing op library is an error
};

/// How a session runs. Every combination computes the same integers.
struct Options {
  int threads = 1;  ///< of ONNX Runtime's pool, for one step
  Library library = Library::kAuto;
  bool in_place = true;     ///< update membranes in their own buffer where that is safe
  std::string op_library;   ///< liblif_ops.so; empty: see FindOpLibrary
  std::string onnxruntime;  ///< libonnxruntime.so; empty: see ort::Runtime::Load
};

/// Largest file and largest states of one stream, refused before anything is allocated.
inline constexpr std::int64_t kMaxFileBytes = std::int64_t{1} << 30;
inline constexpr std::int64_t kMaxStateBytes = std::int64_t{4} << 30;

/// A window as a network takes it, [N, num_bins, H, W] without gaps. Not owned.
struct EventFrame {
  const void* data = nullptr;
  ElementType type = ElementType::kUint8;  ///< kUint8 (counts up to 127) or kFloat32
  int batch = 1;
  int bins = 2;
  Resolution resolution;

  EventFrame() = default;
  EventFrame(const void* values, ElementType element, int sequences, int channels, Resolution size)
      : data(values), type(element), batch(sequences), bins(channels), resolution(size) {}
  EventFrame(const EventAccumulator<std::uint8_t>& events)  // NOLINT: a frame of that window
      : EventFrame(events.data(), ElementType::kUint8, 1, 2, events.resolution()) {}
  EventFrame(const EventAccumulator<float>& events)  // NOLINT
      : EventFrame(events.data(), ElementType::kFloat32, 1, 2, events.resolution()) {}
};

/// Optical flow of the last step, in the stream's own memory: valid until its next step.
struct FlowView {
  const float* data = nullptr;                ///< [N, 2, H, W] in (-1, 1)
  const std::int32_t* accumulator = nullptr;  ///< the same before tanh, int8 artifacts only
  int batch = 0;
  Resolution resolution;
  float scaling = 1;  ///< data times this is pixels per window

  /// Flow to the right and downward at a pixel of a sequence, unscaled.
  float x(int row, int column, int sequence = 0) const { return at(0, row, column, sequence); }
  float y(int row, int column, int sequence = 0) const { return at(1, row, column, sequence); }

 private:
  float at(int channel, int row, int column, int sequence) const {
    const auto plane = static_cast<std::size_t>(2 * sequence + channel);
    const auto line = static_cast<std::size_t>(row) * static_cast<std::size_t>(resolution.width);
    return data[plane * resolution.pixels() + line + static_cast<std::size_t>(column)];
  }
};

/// One state of a stream. Not owned; valid until the next step.
struct StateView {
  const State* state = nullptr;
  const void* data = nullptr;
  std::size_t bytes = 0;
};

/// Every state of a stream, to be put back later, into an equal session also.
struct Snapshot {
  std::string owner;  ///< model, file and size it belongs to
  std::vector<std::vector<unsigned char>> values;
};

namespace detail {

/// A 64-byte aligned block of bytes.
class Block {
 public:
  Block() = default;
  explicit Block(std::size_t bytes)
      : bytes_(bytes), memory_(std::aligned_alloc(kAlignment, RoundUp(bytes)), &std::free) {}

  void* data() const { return memory_.get(); }
  std::size_t bytes() const { return bytes_; }

 private:
  static constexpr std::size_t kAlignment = 64;
  static std::size_t RoundUp(std::size_t bytes) {
    return (bytes + kAlignment - 1) / kAlignment * kAlignment;
  }

  std::size_t bytes_ = 0;
  std::unique_ptr<void, void (*)(void*)> memory_{nullptr, &std::free};
};

inline void Fill(const Block& block, ElementType type, double value) {
  const std::size_t count = block.bytes() / Size(type);
  const auto fill = [&](auto element) {
    auto* values = static_cast<decltype(element)*>(block.data());
    std::fill(values, values + count, element);
  };
  switch (type) {
    case ElementType::kFloat32:
      return fill(static_cast<float>(value));
    case ElementType::kUint8:
      return fill(static_cast<std::uint8_t>(value));
    case ElementType::kInt8:
      return fill(static_cast<std::int8_t>(value));
    case ElementType::kInt16:
      return fill(static_cast<std::int16_t>(value));
    case ElementType::kInt32:
      return fill(static_cast<std::int32_t>(value));
    case ElementType::kUint32:
      return fill(static_cast<std::uint32_t>(value));
  }
}

inline Status ReadFile(const std::string& path, std::int64_t limit, std::string* bytes) {
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"),
                                                       &std::fclose);
  if (file == nullptr) {
    return {Code::kNotFound, path + ": cannot be read (" + std::strerror(errno) + ")"};
  }
  // Also of what has no size, like a pipe: read on until the limit.
  std::vector<char> part(1 << 16);
  while (const std::size_t count = std::fread(part.data(), 1, part.size(), file.get())) {
    bytes->append(part.data(), count);
    if (static_cast<std::int64_t>(bytes->size()) > limit) {
      return {Code::kInvalidArtifact,
              path + ": more than the " + std::to_string(limit >> 20) + " MiB of an artifact"};
    }
  }
  if (std::ferror(file.get()) != 0) return {Code::kNotFound, path + ": cannot be read"};
  return Status();
}

inline bool Exists(const std::string& path) { return access(path.c_str(), R_OK) == 0; }

/// The file ONNX Runtime writes its executed graph to; removed again.
class TemporaryFile {
 public:
  TemporaryFile() {
    const char* folder = std::getenv("TMPDIR");
    path_ =
        std::string(folder == nullptr || *folder == '\0' ? "/tmp" : folder) + "/spikedeploy-XXXXXX";
    const int file = mkstemp(path_.data());
    if (file < 0) {
      path_.clear();
    } else {
      close(file);
    }
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  ~TemporaryFile() {
    if (!path_.empty()) std::remove(path_.c_str());
  }

  /// Empty where none could be made.
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

inline bool IsLibraryNode(const Node& node) {
  return node.domain == "snn" || node.domain == "SNN_implementation";
}

/// Input of a node at which its kernel reads a membrane elementwise; -1 for other nodes.
inline int MembraneInput(const Node& node) {
  if (!IsLibraryNode(node)) return -1;
  if (node.op_type == "LIF" || node.op_type == "QLIF") return 1;
  if (node.op_type == "QConvLIF") return 3;
  if (node.op_type == "QConvLIFRec") return 5;
  return -1;
}

/// Whether a membrane's buffer may be read and overwritten by one step of the executed graph: its
/// input has one reader, which reads it elementwise and writes the state's output.
inline bool SafeInPlace(const OnnxFile& executed, const State& state) {
  if (!state.membrane || FindValue(executed.outputs, state.input) != nullptr) return false;
  bool updated = false;
  int readers = 0;
  for (const Node& node : executed.nodes) {
    for (std::size_t i = 0; i < node.inputs.size(); ++i) {
      if (node.inputs[i] != state.input) continue;
      ++readers;
      updated = static_cast<int>(i) == MembraneInput(node) && node.outputs.size() > 1 &&
                node.outputs[1] == state.output;
    }
  }
  return readers == 1 && updated;
}

}  // namespace detail

/// Path of the op library: `given`, else the environment variable SPIKEDEPLOY_OP_LIBRARY, else the
/// one that find_package(spikedeploy) found. Empty if there is none. Never looked for beside the
/// artifact: whoever hands over a model must not hand over native code with it.
inline std::string FindOpLibrary(const std::string& given) {
  if (!given.empty()) return given;
  const char* named = std::getenv("SPIKEDEPLOY_OP_LIBRARY");
  if (named != nullptr && *named != '\0') return named;
#ifdef SPIKEDEPLOY_OP_LIBRARY_PATH
  if (detail::Exists(SPIKEDEPLOY_OP_LIBRARY_PATH)) return SPIKEDEPLOY_OP_LIBRARY_PATH;
#endif
  return "";
}

/// An artifact, loaded and ready to be stepped by any number of streams.
class Session {
 public:
  Session() = default;
#ifndef SPIKEDEPLOY_NO_EXCEPTIONS
  /// Open, or throw Error.
  explicit Session(const std::string& path, const Options& options = Options()) {
    detail::ThrowUnlessOk(Open(path, options));
  }
#endif

  /// Load and validate an artifact, register the op library, create the session.
  Status Open(const std::string& path, const Options& options = Options()) {
    if (options.threads < 1 || options.threads > 1024) {
      return {Code::kInvalidArgument, "Options::threads must be between 1 and 1024"};
    }
    auto engine = std::make_shared<Engine>();
    engine->path = path;
    std::string bytes;
    SPIKEDEPLOY_RETURN_IF_ERROR(detail::ReadFile(path, kMaxFileBytes, &bytes));
    SPIKEDEPLOY_RETURN_IF_ERROR(Named(path, Validate(bytes, &engine->artifact)));
    SPIKEDEPLOY_RETURN_IF_ERROR(ort::Runtime::Load(options.onnxruntime, &engine->runtime));
    SPIKEDEPLOY_RETURN_IF_ERROR(Create(bytes, options, engine.get()));
    engine_ = std::move(engine);
    return Status();
  }

  bool is_open() const { return engine_ != nullptr; }
  /// The rest needs an open session.
  const std::string& path() const { return engine_->path; }
  const Artifact& artifact() const { return engine_->artifact; }
  /// Whether the op library's kernels run the neurons.
  bool native() const { return engine_->native; }
  /// How many states are updated in their own buffer.
  int in_place() const {
    return static_cast<int>(std::count(engine_->in_place.begin(), engine_->in_place.end(), true));
  }
  /// Version of ONNX Runtime.
  const std::string& runtime_version() const { return engine_->runtime.version(); }

 private:
  friend class Stream;

  struct Engine {
    std::string path;
    Artifact artifact;
    ort::Runtime runtime;
    ort::Handle<ort::Session> session;
    bool native = false;
    std::vector<bool> in_place;  // by state
  };

  static Status Named(const std::string& path, const Status& status) {
    return status.ok() ? status : Status(status.code(), path + ": " + status.message());
  }

  static Status Validate(const std::string& bytes, Artifact* artifact) {
    detail::OnnxFile file;
    SPIKEDEPLOY_RETURN_IF_ERROR(detail::OnnxReader(&file).Read(bytes));
    return Artifact::Parse(file, artifact);
  }

  static Status SetOptions(const Options& options, const ort::Runtime& runtime,
                           ort::SessionOptions* raw) {
    const ort::Api& api = runtime.api();
    const std::string where = "ONNX Runtime refuses the options";
    for (ort::RawStatus* status :
         {api.SetSessionLogSeverityLevel(raw, static_cast<int>(ort::LoggingLevel::kError)),
          api.SetIntraOpNumThreads(raw, options.threads), api.SetInterOpNumThreads(raw, 1),
          api.SetSessionGraphOptimizationLevel(raw, ort::OptimizationLevel::kAll),
          api.AddSessionConfigEntry(raw, "session.intra_op.allow_spinning", "0")}) {
      SPIKEDEPLOY_RETURN_IF_ERROR(runtime.Check(status, where));
    }
    return Status();
  }

  static Status Register(const Options& options, const Engine& engine, ort::SessionOptions* raw,
                         bool* registered) {
    *registered = false;
    if (options.library == Library::kNever) return Status();
    const std::string path = FindOpLibrary(options.op_library);
    if (path.empty() || !detail::Exists(path)) {
      if (options.library == Library::kAuto && options.op_library.empty()) return Status();
      return {Code::kNotFound,
              "no op library (" + (path.empty() ? "liblif_ops.so" : path) +
                  "); name it in Options::op_library or in SPIKEDEPLOY_OP_LIBRARY"};
    }
    SPIKEDEPLOY_RETURN_IF_ERROR(
        engine.runtime.Check(engine.runtime.api().RegisterCustomOpsLibrary_V2(raw, path.c_str()),
                             path + ": ONNX Runtime refuses this op library"));
    *registered = true;
    return Status();
  }

  static Status Create(const std::string& bytes, const Options& options, Engine* engine) {
    const ort::Api& api = engine->runtime.api();
    ort::SessionOptions* raw = nullptr;
    SPIKEDEPLOY_RETURN_IF_ERROR(
        engine->runtime.Check(api.CreateSessionOptions(&raw), "ONNX Runtime has no options"));
    const ort::Handle<ort::SessionOptions> owner(engine->runtime, &ort::Api::ReleaseSessionOptions,
                                                 raw);
    SPIKEDEPLOY_RETURN_IF_ERROR(SetOptions(options, engine->runtime, raw));
    bool registered = false;
    SPIKEDEPLOY_RETURN_IF_ERROR(Register(options, *engine, raw, &registered));
    engine->in_place.assign(engine->artifact.states.size(), false);
    // ONNX Runtime shows the graph it executes only by writing it to a file.
    const detail::TemporaryFile executed;
    const bool look = registered && !executed.path().empty();
    if (look) {
      SPIKEDEPLOY_RETURN_IF_ERROR(engine->runtime.Check(
          api.SetOptimizedModelFilePath(raw, executed.path().c_str()), "ONNX Runtime refuses"));
    }
    ort::Session* session = nullptr;
    SPIKEDEPLOY_RETURN_IF_ERROR(
        engine->runtime.Check(api.CreateSessionFromArray(engine->runtime.env(), bytes.data(),
                                                         bytes.size(), raw, &session),
                              engine->path + ": ONNX Runtime refuses it"));
    engine->session = {engine->runtime, &ort::Api::ReleaseSession, session};
    if (look) Look(executed.path(), options.in_place, engine);
    return Status();
  }

  // What cannot be read leaves the states in two buffers each, which is always right.
  static void Look(const std::string& path, bool in_place, Engine* engine) {
    std::string bytes;
    detail::OnnxFile graph;
    if (!detail::ReadFile(path, kMaxFileBytes, &bytes).ok()) return;
    if (!detail::OnnxReader(&graph).Read(bytes).ok()) return;
    engine->native = std::any_of(graph.nodes.begin(), graph.nodes.end(), detail::IsLibraryNode);
    for (std::size_t i = 0; in_place && i < engine->in_place.size(); ++i) {
      engine->in_place[i] = detail::SafeInPlace(graph, engine->artifact.states[i]);
    }
  }

  std::shared_ptr<Engine> engine_;
};

/// One sequence through a session: its own states, its own buffers. Streams of one session may
/// step in different threads at the same time; one stream belongs to one thread at a time.
class Stream {
 public:
  Stream() = default;
  Stream(Stream&& other) noexcept { Swap(other); }
  Stream& operator=(Stream&& other) noexcept {
    Stream taken(std::move(other));
    Swap(taken);
    return *this;
  }
#ifndef SPIKEDEPLOY_NO_EXCEPTIONS
  /// Open, or throw Error.
  explicit Stream(const Session& session, Resolution resolution = {}, int batch = 1) {
    detail::ThrowUnlessOk(Open(session, resolution, batch));
  }

  /// Run, or throw Error.
  FlowView Step(const EventFrame& events) {
    FlowView flow;
    detail::ThrowUnlessOk(Run(events, &flow));
    return flow;
  }

  /// RunInput, or throw Error.
  FlowView StepInput() {
    FlowView flow;
    detail::ThrowUnlessOk(RunInput(&flow));
    return flow;
  }
#endif

  /// Allocate buffers and bind them. resolution: [H, W]; {0, 0} is the artifact's own. batch:
  /// sequences per step; more than one only where the artifact leaves that free.
  Status Open(const Session& session, Resolution resolution = {}, int batch = 1) {
    if (!session.is_open()) return {Code::kInvalidArgument, "the session is not open"};
    Stream opened;
    opened.engine_ = session.engine_;
    opened.batch_ = batch;
    opened.resolution_ = resolution;
    SPIKEDEPLOY_RETURN_IF_ERROR(opened.CheckSize());
    SPIKEDEPLOY_RETURN_IF_ERROR(opened.Allocate());
    for (const int phase : {0, 1}) SPIKEDEPLOY_RETURN_IF_ERROR(opened.Bind(phase));
    Swap(opened);
    Reset();
    return Status();
  }

  /// Advance by one window. The events are copied; the flow is the stream's own memory. After a
  /// step that failed in ONNX Runtime the states are undefined, and further ones are refused until
  /// Reset or Restore.
  Status Run(const EventFrame& events, FlowView* flow) {
    if (!engine_) return {Code::kInvalidArgument, "the stream is not open"};
    const Artifact& artifact = engine_->artifact;
    if (events.data == nullptr || events.type != artifact.events || events.batch != batch_ ||
        events.bins != artifact.num_bins || events.resolution != resolution_) {
      return Unfit(events);
    }
    std::memcpy(events_.data(), events.data, events_.bytes());
    return RunInput(flow);
  }

  /// Buffer of the next step's events, [N, num_bins, H, W] of Artifact::events, to be filled in
  /// place and run by RunInput without a copy. Its values stay from step to step.
  void* input() { return events_.data(); }
  std::size_t input_bytes() const { return events_.bytes(); }

  /// Advance by the window in input().
  Status RunInput(FlowView* flow) {
    if (!engine_) return {Code::kInvalidArgument, "the stream is not open"};
    if (spoiled_) {
      return {Code::kRuntime,
              engine_->path + ": a step failed, so the states are undefined; Reset or Restore"};
    }
    if (engine_->artifact.events == ElementType::kUint8) {
      const auto* counts = static_cast<const std::uint8_t*>(events_.data());
      std::uint8_t all = 0;  // the highest bit of any count
      for (std::size_t i = 0; i < events_.bytes(); ++i) all |= counts[i];
      if (all > kCountLimit) {
        return {Code::kInvalidArgument,
                "events hold a count above 127, which integer networks do not take; saturate them"};
      }
    }
    const ort::Runtime& runtime = engine_->runtime;
    ort::RawStatus* raw = runtime.api().RunWithBinding(engine_->session.get(), nullptr,
                                                       bindings_[phase_].binding.get());
    if (raw != nullptr) {
      spoiled_ = true;  // states updated in place may be half new
      return runtime.Check(raw, engine_->path + ": the step failed");
    }
    phase_ = 1 - phase_;
    *flow = View();
    return Status();
  }

  /// Back to the state before the first step.
  void Reset() {
    for (std::size_t i = 0; i < pairs_.size(); ++i) {
      const State& state = engine_->artifact.states[i];
      Fill(Current(i), state.type, state.init);
    }
    spoiled_ = false;
  }

  bool is_open() const { return engine_ != nullptr; }
  Resolution resolution() const { return resolution_; }
  int batch() const { return batch_; }

  /// The states the next step will read, in the order of Artifact::states.
  std::size_t state_count() const { return pairs_.size(); }
  StateView state(std::size_t index) const {
    const detail::Block& block = Current(index);
    return {&engine_->artifact.states[index], block.data(), block.bytes()};
  }

  /// Copy every state, to be put back by Restore.
  Snapshot Save() const {
    Snapshot snapshot{Owner(), {}};
    for (std::size_t i = 0; i < pairs_.size(); ++i) {
      const auto* bytes = static_cast<const unsigned char*>(Current(i).data());
      snapshot.values.emplace_back(bytes, bytes + Current(i).bytes());
    }
    return snapshot;
  }

  /// Put states back. Those of another model, file or size are refused.
  Status Restore(const Snapshot& snapshot) {
    bool fits = snapshot.owner == Owner() && snapshot.values.size() == pairs_.size();
    for (std::size_t i = 0; fits && i < pairs_.size(); ++i) {
      fits = snapshot.values[i].size() == Current(i).bytes();
    }
    if (!fits) {
      return {Code::kInvalidArgument,
              "the states are those of " + snapshot.owner + ", and this stream is of " + Owner()};
    }
    for (std::size_t i = 0; i < pairs_.size(); ++i) {
      std::memcpy(Current(i).data(), snapshot.values[i].data(), Current(i).bytes());
    }
    spoiled_ = false;
    return Status();
  }

 private:
  using Values = std::vector<ort::Handle<ort::Value>>;

  // Two blocks that alternate; the second is empty where a state is updated in place.
  struct Pair {
    detail::Block first;
    detail::Block second;
  };

  struct Binding {
    Values values;  // outlived by the binding, so declared before it
    ort::Handle<ort::IoBinding> binding;
  };

  // As a whole, so that old bindings never outlive their session.
  void Swap(Stream& other) noexcept {
    std::swap(engine_, other.engine_);
    std::swap(resolution_, other.resolution_);
    std::swap(batch_, other.batch_);
    std::swap(phase_, other.phase_);
    std::swap(spoiled_, other.spoiled_);
    std::swap(events_, other.events_);
    std::swap(flow_, other.flow_);
    std::swap(accumulator_, other.accumulator_);
    std::swap(pairs_, other.pairs_);
    std::swap(bindings_, other.bindings_);
  }

  const detail::Block& Block(std::size_t index, int phase) const {
    const Pair& pair = pairs_[index];
    return phase == 0 || pair.second.bytes() == 0 ? pair.first : pair.second;
  }

  const detail::Block& Current(std::size_t index) const { return Block(index, phase_); }

  std::string Owner() const {
    const Artifact& artifact = engine_->artifact;
    std::string owner = artifact.model + " " + artifact.kind + " " +
                        artifact.checkpoint_sha256.substr(0, 16) + " at " + SizeText(resolution_);
    return batch_ == 1 ? owner : owner + ", batch " + std::to_string(batch_);
  }

  static std::string SizeText(Resolution size) {
    return std::to_string(size.height) + " x " + std::to_string(size.width);
  }

  Status CheckSize() {
    const Artifact& artifact = engine_->artifact;
    if (resolution_ == Resolution{}) resolution_ = artifact.resolution;
    const auto good = [](int size) { return size >= 1 && size <= detail::kMaxSize; };
    if (!good(resolution_.height) || !good(resolution_.width) || !good(batch_)) {
      return {Code::kInvalidArgument, "sizes and batch must be between 1 and 65536"};
    }
    if (!artifact.spatial_free && resolution_ != artifact.resolution) {
      return {Code::kInvalidArgument, engine_->path + " is made for " +
                                          SizeText(artifact.resolution) + ", not for " +
                                          SizeText(resolution_)};
    }
    const bool fixed = !artifact.spatial_free || artifact.states.front().shape.front() >= 0;
    if (fixed && batch_ != 1) {
      return {Code::kInvalidArgument, engine_->path + " takes a batch of 1, not " +
                                          std::to_string(batch_) + "; use one stream per sequence"};
    }
    return Status();
  }

  // At most 2^16 to the fourth times 4: 2^66 does not fit, so the limit is met on the way.
  static Status Bytes(const std::vector<std::int64_t>& shape, ElementType type,
                      std::size_t* bytes) {
    std::int64_t total = static_cast<std::int64_t>(Size(type));
    for (const std::int64_t size : shape) {
      if (total > kMaxStateBytes / size) {
        return {Code::kInvalidArgument,
                "a tensor of this size needs more than 4 GiB; use a smaller resolution or batch"};
      }
      total *= size;
    }
    *bytes = static_cast<std::size_t>(total);
    return Status();
  }

  static Status New(std::size_t bytes, detail::Block* block) {
    *block = detail::Block(bytes);
    if (block->data() != nullptr) return Status();
    return {Code::kRuntime, "no memory for " + std::to_string(bytes) + " bytes of a stream"};
  }

  std::vector<std::int64_t> EventShape() const {
    return {batch_, engine_->artifact.num_bins, resolution_.height, resolution_.width};
  }

  std::vector<std::int64_t> FlowShape() const {
    return {batch_, 2, resolution_.height, resolution_.width};
  }

  Status Allocate() {
    const Artifact& artifact = engine_->artifact;
    std::vector<std::size_t> sizes(artifact.states.size());
    std::size_t total = 0;
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      const State& state = artifact.states[i];
      SPIKEDEPLOY_RETURN_IF_ERROR(
          Bytes(state.Resolved(batch_, resolution_), state.type, &sizes[i]));
      total += sizes[i];
    }
    if (total > static_cast<std::size_t>(kMaxStateBytes)) {
      return {Code::kInvalidArgument,
              "the states need more than 4 GiB; use a smaller resolution or batch"};
    }
    std::size_t bytes = 0;
    SPIKEDEPLOY_RETURN_IF_ERROR(Bytes(EventShape(), artifact.events, &bytes));
    SPIKEDEPLOY_RETURN_IF_ERROR(New(bytes, &events_));
    std::memset(events_.data(), 0, bytes);
    SPIKEDEPLOY_RETURN_IF_ERROR(Bytes(FlowShape(), ElementType::kFloat32, &bytes));
    SPIKEDEPLOY_RETURN_IF_ERROR(New(bytes, &flow_));
    if (artifact.is_integer()) SPIKEDEPLOY_RETURN_IF_ERROR(New(bytes, &accumulator_));
    pairs_.resize(sizes.size());
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      SPIKEDEPLOY_RETURN_IF_ERROR(New(sizes[i], &pairs_[i].first));
      if (!engine_->in_place[i]) SPIKEDEPLOY_RETURN_IF_ERROR(New(sizes[i], &pairs_[i].second));
    }
    return Status();
  }

  Status Tensor(const detail::Block& block, const std::vector<std::int64_t>& shape,
                ElementType type, Values* values) const {
    const ort::Runtime& runtime = engine_->runtime;
    ort::MemoryInfo* info = nullptr;
    SPIKEDEPLOY_RETURN_IF_ERROR(
        runtime.Check(runtime.api().CreateCpuMemoryInfo(ort::AllocatorType::kDevice,
                                                        ort::MemType::kDefault, &info),
                      "ONNX Runtime has no memory"));
    const ort::Handle<ort::MemoryInfo> owner(runtime, &ort::Api::ReleaseMemoryInfo, info);
    ort::Value* value = nullptr;
    SPIKEDEPLOY_RETURN_IF_ERROR(runtime.Check(runtime.api().CreateTensorWithDataAsOrtValue(
                                                  info, block.data(), block.bytes(), shape.data(),
                                                  shape.size(), static_cast<int>(type), &value),
                                              "ONNX Runtime refuses a buffer"));
    values->emplace_back(runtime, &ort::Api::ReleaseValue, value);
    return Status();
  }

  Status Bind(int phase) {
    const ort::Runtime& runtime = engine_->runtime;
    const ort::Api& api = runtime.api();
    Binding& bound = bindings_[phase];
    ort::IoBinding* raw = nullptr;
    SPIKEDEPLOY_RETURN_IF_ERROR(runtime.Check(api.CreateIoBinding(engine_->session.get(), &raw),
                                              "ONNX Runtime refuses a binding"));
    bound.binding = {runtime, &ort::Api::ReleaseIoBinding, raw};
    const auto bind = [&](bool output, const std::string& name, const detail::Block& block,
                          const std::vector<std::int64_t>& shape, ElementType type) -> Status {
      SPIKEDEPLOY_RETURN_IF_ERROR(Tensor(block, shape, type, &bound.values));
      const ort::Value* value = bound.values.back().get();
      return runtime.Check(output ? api.BindOutput(raw, name.c_str(), value)
                                  : api.BindInput(raw, name.c_str(), value),
                           "ONNX Runtime cannot bind '" + name + "'");
    };
    const Artifact& artifact = engine_->artifact;
    SPIKEDEPLOY_RETURN_IF_ERROR(bind(false, "events", events_, EventShape(), artifact.events));
    SPIKEDEPLOY_RETURN_IF_ERROR(bind(true, "flow", flow_, FlowShape(), ElementType::kFloat32));
    if (artifact.is_integer()) {
      SPIKEDEPLOY_RETURN_IF_ERROR(
          bind(true, "flow_acc", accumulator_, FlowShape(), ElementType::kInt32));
    }
    for (std::size_t i = 0; i < pairs_.size(); ++i) {
      const State& state = artifact.states[i];
      const std::vector<std::int64_t> shape = state.Resolved(batch_, resolution_);
      SPIKEDEPLOY_RETURN_IF_ERROR(bind(false, state.input, Block(i, phase), shape, state.type));
      SPIKEDEPLOY_RETURN_IF_ERROR(bind(true, state.output, Block(i, 1 - phase), shape, state.type));
    }
    return Status();
  }

  FlowView View() const {
    FlowView flow;
    flow.data = static_cast<const float*>(flow_.data());
    flow.accumulator = static_cast<const std::int32_t*>(accumulator_.data());
    flow.batch = batch_;
    flow.resolution = resolution_;
    flow.scaling = static_cast<float>(engine_->artifact.flow_scaling);
    return flow;
  }

  Status Unfit(const EventFrame& events) const {
    const auto text = [](ElementType type, int batch, int bins, Resolution size) {
      return std::string(Name(type)) + " [" + std::to_string(batch) + ", " + std::to_string(bins) +
             ", " + std::to_string(size.height) + ", " + std::to_string(size.width) + "]";
    };
    const Artifact& artifact = engine_->artifact;
    return {Code::kInvalidArgument,
            "events must be " + text(artifact.events, batch_, artifact.num_bins, resolution_) +
                ", got " +
                (events.data == nullptr
                     ? "nothing"
                     : text(events.type, events.batch, events.bins, events.resolution))};
  }

  std::shared_ptr<Session::Engine> engine_;
  Resolution resolution_;
  int batch_ = 1;
  int phase_ = 0;
  bool spoiled_ = false;
  detail::Block events_;
  detail::Block flow_;
  detail::Block accumulator_;
  std::vector<Pair> pairs_;
  Binding bindings_[2];
};

}  // namespace spikedeploy
