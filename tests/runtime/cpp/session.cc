// Sessions and streams under wrong use: every mistake is an Error that names it.
//
//   runtime_session model.int8.onnx other.int8.onnx
//
// Two networks whose size is free, with counts in.
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "expect.h"
#include "spikedeploy/spikedeploy.h"

namespace {

using spikedeploy::Code;
using spikedeploy::ElementType;
using spikedeploy::Error;
using spikedeploy::EventAccumulator;
using spikedeploy::EventFrame;
using spikedeploy::FlowView;
using spikedeploy::Library;
using spikedeploy::Options;
using spikedeploy::Resolution;
using spikedeploy::Session;
using spikedeploy::Snapshot;
using spikedeploy::Stream;

constexpr Resolution kSize{12, 18};

// Whether the call throws that code with that text in its message.
template <class Call>
bool Throws(Code code, const std::string& text, const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    const bool named = std::string(error.what()).find(text) != std::string::npos;
    if (!named || error.code() != code) std::fprintf(stderr, "said: %s\n", error.what());
    return named && error.code() == code;
  }
  return false;
}

EventAccumulator<std::uint8_t> Counts(Resolution size, int step) {
  EventAccumulator<std::uint8_t> events(size);
  for (int i = 0; i < 60; ++i) {
    events.Add((7 * i + 3 * step) % size.width, (5 * i + step) % size.height, i % 3 != 0);
  }
  return events;
}

std::vector<std::int32_t> Drive(Stream* stream, int first, int last) {
  std::vector<std::int32_t> seen;
  for (int step = first; step < last; ++step) {
    const FlowView flow = stream->Step(Counts(stream->resolution(), step));
    seen.insert(seen.end(), flow.accumulator, flow.accumulator + 2 * flow.resolution.pixels());
  }
  return seen;
}

void TestOptions(const std::string& path) {
  Options options;
  options.op_library = "/nowhere/liblif_ops.so";
  EXPECT(Throws(Code::kNotFound, "/nowhere/liblif_ops.so", [&] { Session(path, options); }));
  options = Options();
  options.op_library = "/proc/self/exe";
  EXPECT(Throws(Code::kRuntime, "/proc/self/exe", [&] { Session(path, options); }));
  options = Options();
  options.onnxruntime = "/nowhere/libonnxruntime.so";
  EXPECT(Throws(Code::kNotFound, "/nowhere/libonnxruntime.so", [&] { Session(path, options); }));
  options.onnxruntime = "libm.so.6";
  EXPECT(Throws(Code::kUnsupported, "libm.so.6", [&] { Session(path, options); }));
  options = Options();
  options.threads = 0;
  EXPECT(Throws(Code::kInvalidArgument, "threads", [&] { Session(path, options); }));
  EXPECT(Throws(Code::kNotFound, "/nowhere/m.onnx", [&] { Session("/nowhere/m.onnx"); }));
}

void TestFrames(const Session& session) {
  Stream stream(session, kSize);
  const auto counts = Counts(kSize, 0);
  const EventAccumulator<float> floats(kSize);
  EXPECT(Throws(Code::kInvalidArgument, "uint8 [1, 2, 12, 18], got float32",
                [&] { stream.Step(floats); }));
  EXPECT(Throws(Code::kInvalidArgument, "got uint8 [1, 2, 12, 17]",
                [&] { stream.Step(Counts({12, 17}, 0)); }));
  EXPECT(Throws(Code::kInvalidArgument, "got uint8 [2, 2, 12, 18]",
                [&] { stream.Step(EventFrame(counts.data(), ElementType::kUint8, 2, 2, kSize)); }));
  EXPECT(Throws(Code::kInvalidArgument, "got nothing", [&] { stream.Step(EventFrame()); }));
  auto big = Counts(kSize, 0);
  big.data()[5] = 128;
  EXPECT(Throws(Code::kInvalidArgument, "above 127", [&] { stream.Step(big); }));
  // What was refused has left no trace.
  Stream fresh(session, kSize);
  EXPECT(Drive(&stream, 0, 3) == Drive(&fresh, 0, 3));
}

void TestSizes(const Session& session) {
  EXPECT(Throws(Code::kInvalidArgument, "between 1 and 65536", [&] { Stream(session, {12, -1}); }));
  EXPECT(Throws(Code::kInvalidArgument, "between 1 and 65536", [&] { Stream(session, kSize, 0); }));
  EXPECT(Throws(Code::kInvalidArgument, "4 GiB", [&] { Stream(session, {65536, 65536}, 9); }));
  EXPECT(Throws(Code::kInvalidArgument, "not open", [&] { Stream(Session(), kSize); }));
  const Stream usual(session);
  EXPECT(usual.resolution() == session.artifact().resolution);
}

void TestStates(const Session& session, const Session& other) {
  Stream stream(session, kSize);
  Drive(&stream, 0, 3);
  const Snapshot middle = stream.Save();
  const auto rest = Drive(&stream, 3, 6);
  EXPECT(stream.Restore(middle).ok());
  EXPECT(Drive(&stream, 3, 6) == rest);
  Stream second(session, kSize);
  EXPECT(second.Restore(middle).ok());
  EXPECT(Drive(&second, 3, 6) == rest);
  stream.Reset();
  Stream fresh(session, kSize);
  EXPECT(Drive(&stream, 0, 4) == Drive(&fresh, 0, 4));
  Stream stranger(other, kSize);
  EXPECT(stranger.Restore(middle).code() == Code::kInvalidArgument);
  Stream smaller(session, {6, 6});
  EXPECT(smaller.Restore(middle).message().find("6 x 6") != std::string::npos);
  Snapshot cut = middle;
  cut.values.back().pop_back();
  EXPECT(!stream.Restore(cut).ok());
}

void TestInputWithoutCopy(const Session& session) {
  Stream stream(session, kSize);
  Stream copied(session, kSize);
  for (int step = 0; step < 4; ++step) {
    const auto counts = Counts(kSize, step);
    EXPECT(stream.input_bytes() == counts.size());
    std::memcpy(stream.input(), counts.data(), counts.size());
    const FlowView one = stream.StepInput();
    const FlowView two = copied.Step(counts);
    EXPECT(std::memcmp(one.data, two.data, 8 * kSize.pixels()) == 0);
  }
}

// Streams of one session in threads, and a stream that is moved and opened again.
void TestStreams(const Session& session, const Session& other) {
  Stream alone(session, kSize);
  const auto expected = Drive(&alone, 0, 20);
  std::vector<std::vector<std::int32_t>> seen(4);
  std::vector<std::thread> threads;
  for (auto& result : seen) {
    threads.emplace_back([&session, &result] {
      Stream stream(session, kSize);
      result = Drive(&stream, 0, 20);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& result : seen) EXPECT(result == expected);

  Stream kept;
  {
    const Session passing(session.path());
    kept = Stream(passing, kSize);
  }
  EXPECT(Drive(&kept, 0, 20) == expected);  // a stream holds its session
  kept = Stream(other, kSize);
  EXPECT(kept.Open(session, kSize).ok());
  EXPECT(Drive(&kept, 0, 20) == expected);
}

void TestBatch(const Session& session) {
  Stream one(session, kSize);
  Stream two(session, kSize, 2);
  for (int step = 0; step < 4; ++step) {
    const auto counts = Counts(kSize, step);
    std::vector<std::uint8_t> both(counts.data(), counts.data() + counts.size());
    both.resize(2 * counts.size());  // the second sequence sees nothing
    const FlowView flow = two.Step(EventFrame(both.data(), ElementType::kUint8, 2, 2, kSize));
    const FlowView single = one.Step(counts);
    EXPECT(std::memcmp(flow.accumulator, single.accumulator, 8 * kSize.pixels()) == 0);
    EXPECT(flow.x(3, 4) == single.x(3, 4) && flow.y(11, 17) == single.y(11, 17));
  }
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 3) return 2;
  try {
    const Session session(arguments[1]);
    const Session other(arguments[2]);
    TestOptions(arguments[1]);
    TestFrames(session);
    TestSizes(session);
    TestStates(session, other);
    TestInputWithoutCopy(session);
    TestStreams(session, other);
    TestBatch(session);
  } catch (const Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
  return Failures() == 0 ? 0 : 1;
}
