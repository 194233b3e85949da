// The bytes of one execution, taken apart into numbers and arrays. Bytes that are asked for beyond
// the end are zeros, so that every input means something.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace fuzz {

class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size) : data_(data), left_(size) {}

  std::size_t left() const { return left_; }

  template <class T>
  T Take() {
    T value{};
    const std::size_t count = sizeof(T) < left_ ? sizeof(T) : left_;
    if (count > 0) std::memcpy(&value, data_, count);
    data_ += count;
    left_ -= count;
    return value;
  }

  bool Flag() { return (Take<std::uint8_t>() & 1) != 0; }

  // One of lo..hi, both included; at most 256 values.
  std::int64_t Int(std::int64_t lo, std::int64_t hi) {
    return lo + Take<std::uint8_t>() % (hi - lo + 1);
  }

  // `count` values: the bytes at hand, repeated with a twist once they are all taken, so that a
  // short input still fills a large tensor with numbers that differ.
  template <class T>
  std::vector<T> Vector(std::int64_t count) {
    std::vector<T> values(static_cast<std::size_t>(count));
    for (T& value : values) value = left_ > 0 ? Take<T>() : Noise<T>();
    return values;
  }

  template <class T>
  T Noise() {
    state_ = state_ * 6364136223846793005U + 1442695040888963407U;
    const std::uint64_t bits = state_ ^ (state_ >> 29);
    T value{};
    std::memcpy(&value, &bits, sizeof(T));
    return value;
  }

 private:
  const std::uint8_t* data_;
  std::size_t left_;
  std::uint64_t state_ = 1;
};

// Ends the process where a fuzzer notices it.
[[noreturn]] inline void Fail(const char* what) {
  std::fprintf(stderr, "fuzz: %s\n", what);
  std::abort();
}

inline void Demand(bool holds, const char* what) {
  if (!holds) Fail(what);
}

template <class T>
std::size_t Size(T count) {
  return static_cast<std::size_t>(count);
}

}  // namespace fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);
