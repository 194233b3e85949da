// The little that the tests of the kernels need: checks that count, numbers that repeat.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include "lif_op/types.h"

namespace lif_op::testing {

inline int failures = 0;

inline void Expect(bool holds, const char* file, int line, const char* what,
                   const std::string& where) {
  if (holds) return;
  if (++failures <= 20) std::printf("%s:%d: %s [%s]\n", file, line, what, where.c_str());
}

// Exit status of a test program; says what was found.
inline int Report(const char* name) {
  if (failures == 0) {
    std::printf("%s: all checks hold\n", name);
  } else {
    std::printf("%s: %d checks failed\n", name, failures);
  }
  return failures == 0 ? 0 : 1;
}

// splitmix64: the same numbers everywhere.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}

  // Uniform in lo..hi, both included.
  std::int64_t Int(std::int64_t lo, std::int64_t hi) {
    const auto span = static_cast<std::uint64_t>(hi - lo) + 1;
    return lo + static_cast<std::int64_t>(Next() % span);
  }

  // Uniform in -1..1.
  float Float() { return static_cast<float>(Int(-(1 << 24), 1 << 24)) / (1 << 24); }

  template <class T>
  std::vector<T> Vector(std::int64_t count, std::int64_t lo, std::int64_t hi) {
    std::vector<T> values(static_cast<std::size_t>(count));
    for (T& value : values) value = static_cast<T>(Int(lo, hi));
    return values;
  }

  std::vector<float> Floats(std::int64_t count) {
    std::vector<float> values(static_cast<std::size_t>(count));
    for (float& value : values) value = Float();
    return values;
  }

 private:
  std::uint64_t Next() {
    std::uint64_t z = (state_ += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }

  std::uint64_t state_;
};

// Whether to run case number `index` of a test with many. LIF_OP_TEST_EVERY=n asks for one in n,
// for processors that are emulated and slow.
inline bool Selected(std::uint64_t index) {
  static const char* const every = std::getenv("LIF_OP_TEST_EVERY");
  const long n = every == nullptr ? 1 : std::atol(every);
  return n <= 1 || index % static_cast<std::uint64_t>(n) == 0;
}

// Calls work(range) for 0..count in `parts` pieces: several of them in a thread each, started with
// the last one, so that a thread sanitizer sees what two pieces share.
template <class Work>
void InParts(std::int64_t count, std::int64_t parts, const Work& work) {
  if (parts == 1) return work(Range{0, count});
  std::vector<std::thread> threads;
  for (std::int64_t part = parts - 1; part >= 0; --part) {
    const Range range{count * part / parts, count * (part + 1) / parts};
    threads.emplace_back([&work, range] { work(range); });
  }
  for (std::thread& thread : threads) thread.join();
}

// True when `body` throws `Error` with `text` in its message.
template <class Error, class Body>
bool Throws(const char* text, Body body) {
  try {
    body();
  } catch (const Error& error) {
    return std::string(error.what()).find(text) != std::string::npos;
  }
  return false;
}

}  // namespace lif_op::testing

// CHECK(condition, where): `where` is a std::string that tells the case at hand.
#define CHECK(condition, where) \
  ::lif_op::testing::Expect((condition), __FILE__, __LINE__, #condition, (where))
