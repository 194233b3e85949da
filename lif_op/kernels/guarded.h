// Memory of tests with a forbidden page right behind it, or right before it: whatever reads or
// writes past the end of a tensor is killed on the spot.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

namespace lif_op::testing {

enum class Guard { kBehind, kBefore };

template <class T>
class Guarded {
 public:
  // `alignment` is what the memory has at least; the guard touches it as closely as that allows.
  Guarded(std::size_t count, Guard guard, std::size_t alignment = alignof(T)) : count_(count) {
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    const std::size_t bytes = (count * sizeof(T) + alignment - 1) / alignment * alignment;
    const std::size_t inner = (bytes + page - 1) / page * page;
    mapped_ = inner + 2 * page;
    base_ = mmap(nullptr, mapped_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base_ == MAP_FAILED) throw std::bad_alloc();
    auto* first = static_cast<std::uint8_t*>(base_) + page;
    if (inner > 0 && mprotect(first, inner, PROT_READ | PROT_WRITE) != 0) throw std::bad_alloc();
    data_ = reinterpret_cast<T*>(guard == Guard::kBehind ? first + inner - bytes : first);
  }

  Guarded(const std::vector<T>& values, Guard guard) : Guarded(values.size(), guard) {
    if (!values.empty()) std::memcpy(data_, values.data(), values.size() * sizeof(T));
  }

  ~Guarded() { munmap(base_, mapped_); }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;

  T* data() const { return data_; }
  std::vector<T> Values() const { return std::vector<T>(data_, data_ + count_); }

 private:
  std::size_t count_;
  std::size_t mapped_ = 0;
  void* base_ = nullptr;
  T* data_ = nullptr;
};

}  // namespace lif_op::testing
