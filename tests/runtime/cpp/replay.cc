// Replay test vectors and print a hash of every state and of the flow after every step.
//
//   runtime_replay model.onnx events.bin [never] [pingpong] [threads=N] [expect=FILE]
//
// events.bin: int32 steps, channels, height, width, then uint8 counts of all steps. With
// expect=FILE the lines are compared with those of the file instead of being printed.
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

#include "spikedeploy/spikedeploy.h"

namespace {

using spikedeploy::Code;
using spikedeploy::ElementType;
using spikedeploy::Error;

// FNV-1a of 64 bits.
std::string Hash(const void* data, std::size_t bytes) {
  std::uint64_t hash = 14695981039346656037U;
  for (std::size_t i = 0; i < bytes; ++i) {
    hash = (hash ^ static_cast<const unsigned char*>(data)[i]) * 1099511628211U;
  }
  char text[17];
  std::snprintf(text, sizeof text, "%016" PRIx64, hash);
  return text;
}

struct Vectors {
  std::int32_t steps = 0;
  std::int32_t channels = 0;
  std::int32_t height = 0;
  std::int32_t width = 0;
  std::vector<std::uint8_t> counts;
};

Vectors Read(const char* path) {
  std::ifstream file(path, std::ios::binary);
  Vectors vectors;
  for (std::int32_t* value : {&vectors.steps, &vectors.channels, &vectors.height, &vectors.width}) {
    file.read(reinterpret_cast<char*>(value), sizeof *value);
  }
  vectors.counts.assign(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  const std::int64_t size =
      static_cast<std::int64_t>(vectors.steps) * vectors.channels * vectors.height * vectors.width;
  if (size <= 0 || static_cast<std::int64_t>(vectors.counts.size()) != size) {
    throw Error({Code::kInvalidArgument, std::string(path) + ": not test vectors"});
  }
  return vectors;
}

std::string Replay(const spikedeploy::Session& session, const Vectors& vectors) {
  spikedeploy::Stream stream(session, {vectors.height, vectors.width});
  const std::size_t size = vectors.counts.size() / static_cast<std::size_t>(vectors.steps);
  const bool bytes = session.artifact().events == ElementType::kUint8;
  std::vector<float> floats(size);
  std::ostringstream lines;
  for (int step = 0; step < vectors.steps; ++step) {
    const std::uint8_t* counts = vectors.counts.data() + static_cast<std::size_t>(step) * size;
    floats.assign(counts, counts + size);
    const void* data = bytes ? static_cast<const void*>(counts) : floats.data();
    const spikedeploy::FlowView flow = stream.Step(
        {data, session.artifact().events, 1, vectors.channels, {vectors.height, vectors.width}});
    for (std::size_t i = 0; i < stream.state_count(); ++i) {
      const spikedeploy::StateView state = stream.state(i);
      lines << step << ' ' << state.state->input << ' ' << Hash(state.data, state.bytes) << '\n';
    }
    const std::size_t plane = 2 * stream.resolution().pixels();
    if (flow.accumulator != nullptr) {
      lines << step << " flow_acc " << Hash(flow.accumulator, plane * 4) << '\n';
    }
    // The integers' flow goes through tanh, whose last bit is the runtime's own.
    if (flow.accumulator == nullptr)
      lines << step << " flow " << Hash(flow.data, plane * 4) << '\n';
  }
  return lines.str();
}

int Compare(const std::string& lines, const std::string& path) {
  std::ifstream file(path);
  const std::string expected{std::istreambuf_iterator<char>(file),
                             std::istreambuf_iterator<char>()};
  if (!expected.empty() && lines == expected) return 0;
  std::istringstream ours(lines);
  std::istringstream theirs(expected);
  std::string a;
  std::string b;
  while (std::getline(ours, a) && std::getline(theirs, b) && a == b) {
  }
  std::fprintf(stderr, "%s: expected '%s', got '%s'\n", path.c_str(), b.c_str(), a.c_str());
  return 1;
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 3) return 2;
  spikedeploy::Options options;
  options.library = spikedeploy::Library::kRequire;
  std::string expected;
  for (int i = 3; i < count; ++i) {
    const std::string option = arguments[i];
    if (option == "never") options.library = spikedeploy::Library::kNever;
    if (option == "pingpong") options.in_place = false;
    if (option.rfind("threads=", 0) == 0) options.threads = std::atoi(option.c_str() + 8);
    if (option.rfind("expect=", 0) == 0) expected = option.substr(7);
  }
  try {
    const spikedeploy::Session session(arguments[1], options);
    std::fprintf(stderr, "native %d, in place %d of %zu, ONNX Runtime %s\n", session.native(),
                 session.in_place(), session.artifact().states.size(),
                 session.runtime_version().c_str());
    const std::string lines = Replay(session, Read(arguments[2]));
    if (!expected.empty()) return Compare(lines, expected);
    std::fputs(lines.c_str(), stdout);
  } catch (const Error& error) {
    std::fprintf(stderr, "error %d: %s\n", static_cast<int>(error.code()), error.what());
    return 2;
  }
  return 0;
}
