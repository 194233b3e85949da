// What an artifact says about itself, read and checked before ONNX Runtime sees the file. The keys
// and their meaning are those of docs/artifact.md, schema 1.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "spikedeploy/events.h"
#include "spikedeploy/json.h"
#include "spikedeploy/known_ops.h"
#include "spikedeploy/onnx_file.h"
#include "spikedeploy/status.h"

namespace spikedeploy {

/// Element types of artifacts; the numbers are those of ONNX and of ONNX Runtime.
enum class ElementType : int {
  kFloat32 = 1,
  kUint8 = 2,
  kInt8 = 3,
  kInt16 = 5,
  kInt32 = 6,
  kUint32 = 12
};

inline const char* Name(ElementType type) {
  switch (type) {
    case ElementType::kFloat32:
      return "float32";
    case ElementType::kUint8:
      return "uint8";
    case ElementType::kInt8:
      return "int8";
    case ElementType::kInt16:
      return "int16";
    case ElementType::kInt32:
      return "int32";
    case ElementType::kUint32:
      return "uint32";
  }
  return "unknown";
}

/// Bytes of one element.
inline std::size_t Size(ElementType type) {
  switch (type) {
    case ElementType::kUint8:
    case ElementType::kInt8:
      return 1;
    case ElementType::kInt16:
      return 2;
    default:
      return 4;
  }
}

/// Dimensions that the file leaves free, in State::shape.
inline constexpr std::int64_t kFreeBatch = -1;
inline constexpr std::int64_t kFreeHeight = -2;
inline constexpr std::int64_t kFreeWidth = -3;

/// One recurrent tensor: fed as `input` at a step, returned as `output` by it.
struct State {
  std::string input;
  std::string output;
  bool membrane = false;  ///< else a layer's spikes of the last step
  std::string layout;     ///< NCHW, NHWC or packed32
  ElementType type = ElementType::kFloat32;
  std::vector<std::int64_t> shape;  ///< kFreeBatch, ... where free
  double init = 0;                  ///< every element before the first step

  /// The shape for a batch and an image size.
  std::vector<std::int64_t> Resolved(int batch, Resolution resolution) const {
    std::vector<std::int64_t> sizes = shape;
    for (std::int64_t& size : sizes) {
      if (size == kFreeBatch) size = batch;
      if (size == kFreeHeight) size = resolution.height;
      if (size == kFreeWidth) size = resolution.width;
    }
    return sizes;
  }
};

/// The metadata of one file.
struct Artifact {
  std::string model;          ///< for example "LIFFireNet"
  std::string kind;           ///< float, qdq or int8
  std::string encoding;       ///< cnt or voxel
  int num_bins = 0;           ///< channels of `events`
  Resolution resolution;      ///< nominal only where spatial_free
  bool spatial_free = false;  ///< whether batch, height and width are free
  double flow_scaling = 1;    ///< pixels per window for one unit of `flow`
  std::vector<State> states;
  std::string checkpoint_sha256;
  std::string version;                         ///< of the exporter
  ElementType events = ElementType::kFloat32;  ///< element type of `events`

  /// Whether the file computes in integers up to the flow head's accumulator.
  bool is_integer() const { return kind == "int8"; }

  /// Read and check the metadata of a file, and check the graph's inputs and outputs against it.
  static Status Parse(const detail::OnnxFile& file, Artifact* artifact);
};

namespace detail {

inline constexpr char kMetadataKey[] = "snn.artifact";
inline constexpr std::int64_t kSchema = 1;
inline constexpr std::int64_t kMaxSize = 1 << 16;

/// Typed access to an object, with errors that name what it is and the key.
class Fields {
 public:
  Fields(std::string what, const Json& json) : what_(std::move(what)), json_(json) {}

  Status Wrong(const std::string& problem) const {
    return {Code::kInvalidArtifact, what_ + " " + problem + "; export the file again"};
  }

  Status Get(const char* key, Json::Kind kind, const char* expected, const Json** value) const {
    *value = json_.kind == Json::Kind::kObject ? json_.Find(key) : nullptr;
    if (*value == nullptr) return Wrong(std::string("lacks '") + key + "'");
    if ((*value)->kind == kind) return Status();
    return Wrong(std::string("has a ") + key + " that is not " + expected);
  }

  Status Text(const char* key, std::string* text) const {
    const Json* value = nullptr;
    SPIKEDEPLOY_RETURN_IF_ERROR(Get(key, Json::Kind::kText, "text", &value));
    *text = value->text;
    return Status();
  }

  Status OptionalText(const char* key, std::string* text) const {
    const Json* value = json_.Find(key);
    return value == nullptr || value->kind == Json::Kind::kNull ? Status() : Text(key, text);
  }

  template <std::size_t kCount>
  Status Choice(const char* key, const std::array<const char*, kCount>& choices,
                std::string* text) const {
    SPIKEDEPLOY_RETURN_IF_ERROR(Text(key, text));
    for (const char* choice : choices) {
      if (*text == choice) return Status();
    }
    return Wrong(std::string("has ") + key + " = '" + *text + "', which is not known");
  }

  Status Integer(const char* key, std::int64_t low, std::int64_t high, std::int64_t* number) const {
    const Json* value = nullptr;
    SPIKEDEPLOY_RETURN_IF_ERROR(Get(key, Json::Kind::kNumber, "a number", &value));
    *number = value->integer;
    if (value->is_integer && low <= *number && *number <= high) return Status();
    return Wrong(std::string("has a ") + key + " outside " + std::to_string(low) + ".." +
                 std::to_string(high));
  }

  Status List(const char* key, const Json** value) const {
    return Get(key, Json::Kind::kList, "a list", value);
  }

  const Json* Find(const char* key) const { return json_.Find(key); }

 private:
  std::string what_;
  const Json& json_;
};

inline Status ParseType(const Fields& fields, const char* key, ElementType* type) {
  std::string name;
  SPIKEDEPLOY_RETURN_IF_ERROR(fields.Text(key, &name));
  for (const ElementType known : {ElementType::kFloat32, ElementType::kUint8, ElementType::kInt8,
                                  ElementType::kInt16, ElementType::kUint32}) {
    if (name == Name(known)) {
      *type = known;
      return Status();
    }
  }
  return fields.Wrong("has " + std::string(key) + " = '" + name + "', which is not known");
}

inline Status ParseShape(const Fields& fields, std::vector<std::int64_t>* shape) {
  const Json* list = nullptr;
  SPIKEDEPLOY_RETURN_IF_ERROR(fields.List("shape", &list));
  if (list->items.size() != 4) return fields.Wrong("has a shape that is not of rank 4");
  for (const Json& item : list->items) {
    if (item.kind == Json::Kind::kText && item.text == "N") {
      shape->push_back(kFreeBatch);
    } else if (item.kind == Json::Kind::kText && item.text == "H") {
      shape->push_back(kFreeHeight);
    } else if (item.kind == Json::Kind::kText && item.text == "W") {
      shape->push_back(kFreeWidth);
    } else if (item.is_integer && item.integer >= 1 && item.integer <= kMaxSize) {
      shape->push_back(item.integer);
    } else {
      return fields.Wrong("has a dimension that is neither N, H, W nor a size");
    }
  }
  return Status();
}

/// Whether an element of that type can hold the value exactly enough to start from it.
inline bool Holds(ElementType type, double value) {
  if (type == ElementType::kFloat32) return std::abs(value) <= 3.4e38;
  if (value != std::floor(value)) return false;
  if (type == ElementType::kInt16) return value >= -32768 && value <= 32767;
  if (type == ElementType::kInt8) return value >= -128 && value <= 127;
  return value >= 0 && value <= (type == ElementType::kUint8 ? 1.0 : 4294967295.0);
}

inline Status ParseState(const Json& json, std::size_t number, State* state) {
  const Fields unnamed("metadata of state " + std::to_string(number), json);
  SPIKEDEPLOY_RETURN_IF_ERROR(unnamed.Text("input", &state->input));
  const Fields fields("metadata of state '" + state->input + "'", json);
  SPIKEDEPLOY_RETURN_IF_ERROR(fields.Text("output", &state->output));
  std::string role;
  SPIKEDEPLOY_RETURN_IF_ERROR(
      fields.Choice("role", std::array<const char*, 2>{"mem", "spike"}, &role));
  state->membrane = role == "mem";
  const std::string layer =
      state->input.substr(std::min(state->input.find('.'), state->input.size()));
  if (state->input != role + layer || state->output != role + "_out" + layer) {
    return fields.Wrong("is paired with '" + state->output + "', expected " + role +
                        ".LAYER with " + role + "_out.LAYER");
  }
  SPIKEDEPLOY_RETURN_IF_ERROR(fields.Choice(
      "layout", std::array<const char*, 3>{"NCHW", "NHWC", "packed32"}, &state->layout));
  SPIKEDEPLOY_RETURN_IF_ERROR(ParseType(fields, "dtype", &state->type));
  SPIKEDEPLOY_RETURN_IF_ERROR(ParseShape(fields, &state->shape));
  if (fields.Find("init") == nullptr) return Status();
  const Json* init = nullptr;
  SPIKEDEPLOY_RETURN_IF_ERROR(fields.Get("init", Json::Kind::kNumber, "a number", &init));
  state->init = init->number;
  if (Holds(state->type, state->init)) return Status();
  return fields.Wrong("has an init that its dtype cannot hold");
}

inline Status ParseSize(const Fields& fields, Resolution* resolution) {
  const Json* list = nullptr;
  SPIKEDEPLOY_RETURN_IF_ERROR(fields.List("resolution", &list));
  const auto good = [](const Json& size) {
    return size.is_integer && size.integer >= 1 && size.integer <= kMaxSize;
  };
  if (list->items.size() != 2 || !good(list->items[0]) || !good(list->items[1])) {
    return fields.Wrong("has a resolution that is not two sizes");
  }
  *resolution = {static_cast<int>(list->items[0].integer),
                 static_cast<int>(list->items[1].integer)};
  return Status();
}

inline Status ParseMetadata(const Json& json, Artifact* artifact) {
  const Fields fields("metadata", json);
  const Json* schema = nullptr;
  SPIKEDEPLOY_RETURN_IF_ERROR(fields.Get("schema", Json::Kind::kNumber, "a number", &schema));
  if (!schema->is_integer || schema->integer != kSchema) {
    return {Code::kUnsupported,
            "metadata has a schema other than 1, which is what these headers read; update them or "
            "export the file again"};
  }
  SPIKEDEPLOY_RETURN_IF_ERROR(fields.Text("model", &artifact->model));
  SPIKEDEPLOY_RETURN_IF_ERROR(
      fields.Choice("kind", std::array<const char*, 3>{"float", "qdq", "int8"}, &artifact->kind));
  SPIKEDEPLOY_RETURN_IF_ERROR(
      fields.Choice("encoding", std::array<const char*, 2>{"cnt", "voxel"}, &artifact->encoding));
  std::int64_t bins = 0;
  SPIKEDEPLOY_RETURN_IF_ERROR(fields.Integer("num_bins", 1, 1024, &bins));
  artifact->num_bins = static_cast<int>(bins);
  if (artifact->encoding == "cnt" && bins != 2) return fields.Wrong("counts have 2 bins");
  SPIKEDEPLOY_RETURN_IF_ERROR(ParseSize(fields, &artifact->resolution));
  const Json* value = nullptr;
  SPIKEDEPLOY_RETURN_IF_ERROR(
      fields.Get("spatial_free", Json::Kind::kBool, "true or false", &value));
  artifact->spatial_free = value->boolean;
  SPIKEDEPLOY_RETURN_IF_ERROR(fields.Get("flow_scaling", Json::Kind::kNumber, "a number", &value));
  artifact->flow_scaling = value->number;
  if (artifact->flow_scaling <= 0) return fields.Wrong("has a flow_scaling that is not above 0");
  SPIKEDEPLOY_RETURN_IF_ERROR(
      fields.OptionalText("checkpoint_sha256", &artifact->checkpoint_sha256));
  SPIKEDEPLOY_RETURN_IF_ERROR(fields.OptionalText("version", &artifact->version));
  artifact->events = artifact->is_integer() ? ElementType::kUint8 : ElementType::kFloat32;
  const Json* events = fields.Find("events");
  if (artifact->kind == "qdq" && events != nullptr && events->kind != Json::Kind::kNull) {
    SPIKEDEPLOY_RETURN_IF_ERROR(ParseType(fields, "events", &artifact->events));
    if (artifact->events != ElementType::kUint8 && artifact->events != ElementType::kFloat32) {
      return fields.Wrong("has events that are neither uint8 nor float32");
    }
  }
  SPIKEDEPLOY_RETURN_IF_ERROR(fields.List("states", &value));
  for (std::size_t i = 0; i < value->items.size(); ++i) {
    artifact->states.emplace_back();
    SPIKEDEPLOY_RETURN_IF_ERROR(ParseState(value->items[i], i, &artifact->states.back()));
  }
  if (artifact->states.empty()) return fields.Wrong("has no states");
  return Status();
}

inline const ValueInfo* FindValue(const std::vector<ValueInfo>& values, std::string_view name) {
  const auto found = std::find_if(values.begin(), values.end(),
                                  [&](const ValueInfo& value) { return value.name == name; });
  return found == values.end() ? nullptr : &*found;
}

/// Check a value of the graph. Free dimensions match free ones; an output may leave a size open.
inline Status CheckValue(const std::vector<ValueInfo>& values, const std::string& name,
                         ElementType type, const std::vector<std::int64_t>& shape, bool output) {
  const std::string what = (output ? "graph output '" : "graph input '") + name + "'";
  const ValueInfo* value = FindValue(values, name);
  if (value == nullptr) {
    return {Code::kInvalidArtifact, "the graph has no " + what + "; export the file again"};
  }
  if (value->element_type != static_cast<std::int32_t>(type)) {
    return {Code::kInvalidArtifact,
            what + " is not " + Name(type) + " in the graph; export the file again"};
  }
  if (!value->has_shape && output) return Status();
  bool fits = value->shape.size() == shape.size();
  for (std::size_t i = 0; fits && i < shape.size(); ++i) {
    fits = value->shape[i] < 0 ? shape[i] < 0 || output : value->shape[i] == shape[i];
  }
  if (fits) return Status();
  return {Code::kInvalidArtifact,
          what + " has another shape in the graph than in the metadata; export the file again"};
}

inline Status CheckGraph(const OnnxFile& file, const Artifact& artifact) {
  const bool free = artifact.spatial_free;
  const std::int64_t batch = free ? artifact.states.front().shape.front() : 1;
  const std::int64_t height = free ? kFreeHeight : artifact.resolution.height;
  const std::int64_t width = free ? kFreeWidth : artifact.resolution.width;
  const std::vector<std::int64_t> flow = {batch, 2, height, width};
  SPIKEDEPLOY_RETURN_IF_ERROR(CheckValue(file.inputs, "events", artifact.events,
                                         {batch, artifact.num_bins, height, width}, false));
  SPIKEDEPLOY_RETURN_IF_ERROR(CheckValue(file.outputs, "flow", ElementType::kFloat32, flow, true));
  if (artifact.is_integer()) {
    SPIKEDEPLOY_RETURN_IF_ERROR(
        CheckValue(file.outputs, "flow_acc", ElementType::kInt32, flow, true));
  }
  std::vector<std::string> names = {"events", "flow", "flow_acc"};
  for (const State& state : artifact.states) {
    SPIKEDEPLOY_RETURN_IF_ERROR(
        CheckValue(file.inputs, state.input, state.type, state.shape, false));
    SPIKEDEPLOY_RETURN_IF_ERROR(
        CheckValue(file.outputs, state.output, state.type, state.shape, true));
    names.push_back(state.input);
    names.push_back(state.output);
  }
  for (const ValueInfo& input : file.inputs) {
    if (std::find(names.begin(), names.end(), input.name) == names.end()) {
      return {Code::kInvalidArtifact, "graph input '" + input.name +
                                          "' is neither events nor a state; export the file again"};
    }
  }
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice != names.end()) {
    return {Code::kInvalidArtifact,
            "metadata uses the name '" + *twice + "' twice; export the file again"};
  }
  return Status();
}

}  // namespace detail

inline Status Artifact::Parse(const detail::OnnxFile& file, Artifact* artifact) {
  if (file.has_external_data) {
    return {Code::kInvalidArtifact,
            "keeps values in other files, which are not opened; export it into one file"};
  }
  const std::string* text = nullptr;
  for (const auto& [key, value] : file.metadata) {
    if (key != detail::kMetadataKey) continue;
    if (text != nullptr) {
      return {Code::kInvalidArtifact, "'snn.artifact' metadata appears twice; export again"};
    }
    text = &value;
  }
  if (text == nullptr) {
    return {Code::kInvalidArtifact,
            "no 'snn.artifact' metadata, so this is not an artifact of spikedeploy; export the "
            "checkpoint with python -m export.qdq"};
  }
  detail::Json json;
  const Status parsed = detail::JsonReader(*text).Read(&json);
  if (!parsed.ok()) {
    return {Code::kInvalidArtifact, "metadata is " + parsed.message() + "; export the file again"};
  }
  *artifact = Artifact();
  SPIKEDEPLOY_RETURN_IF_ERROR(detail::ParseMetadata(json, artifact));
  SPIKEDEPLOY_RETURN_IF_ERROR(detail::CheckGraph(file, *artifact));
  return detail::CheckOps(file);
}

}  // namespace spikedeploy
