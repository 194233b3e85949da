// The metadata of artifacts, as JSON text: any text is read or refused, what was read can be
// written and read again, and metadata that is accepted has sizes, types and values that can be.
#include <cmath>
#include <string>
#include <string_view>

#include "fuzz/input.h"
#include "spikedeploy/artifact.h"

namespace {

using fuzz::Demand;
using spikedeploy::detail::Json;
using spikedeploy::detail::JsonReader;

void Write(std::string_view value, std::string* text) {
  static constexpr char kHex[] = "0123456789abcdef";
  *text += '"';
  for (const char c : value) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || c == '"' || c == '\\') {
      *text += "\\u00";
      *text += kHex[byte >> 4];
      *text += kHex[byte & 15];
    } else {
      *text += c;
    }
  }
  *text += '"';
}

// Everything but numbers with a fraction, which are written as whole ones.
void Write(const Json& value, std::string* text) {
  const char* separator = "";
  switch (value.kind) {
    case Json::Kind::kNull:
      *text += "null";
      break;
    case Json::Kind::kBool:
      *text += value.boolean ? "true" : "false";
      break;
    case Json::Kind::kNumber:
      *text += std::to_string(value.is_integer ? value.integer : 0);
      break;
    case Json::Kind::kText:
      Write(value.text, text);
      break;
    case Json::Kind::kList:
      *text += '[';
      for (const Json& item : value.items) {
        *text += separator;
        Write(item, text);
        separator = ",";
      }
      *text += ']';
      break;
    case Json::Kind::kObject:
      *text += '{';
      for (const auto& [name, member] : value.members) {
        *text += separator;
        Write(name, text);
        *text += ':';
        Write(member, text);
        separator = ",";
      }
      *text += '}';
      break;
  }
}

void CheckRoundTrip(const Json& json) {
  std::string first, second;
  Write(json, &first);
  Json again;
  Demand(JsonReader(first).Read(&again).ok(), "JSON that was written is not read");
  Write(again, &second);
  Demand(first == second, "JSON changes on its way through text");
}

void CheckMetadata(const Json& json) {
  spikedeploy::Artifact artifact;
  const spikedeploy::Status status = spikedeploy::detail::ParseMetadata(json, &artifact);
  if (!status.ok()) return Demand(!status.message().empty(), "an error without a message");
  Demand(std::isfinite(artifact.flow_scaling), "a flow scaling that is no number");
  for (const spikedeploy::State& state : artifact.states) {
    Demand(state.shape.size() == 4, "a state of another rank was accepted");
    Demand(std::isfinite(state.init), "an init that is no number");
    Demand(state.layout == "NCHW" || state.layout == "NHWC" || state.layout == "packed32",
           "an unknown layout was accepted");
  }
}

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  Json json;
  if (!JsonReader(text).Read(&json).ok()) return 0;
  CheckRoundTrip(json);
  CheckMetadata(json);
  return 0;
}
