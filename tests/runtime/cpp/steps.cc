// Counts what a step allocates: by the code of this program, which is where the headers are
// compiled in, and by everything else, which is ONNX Runtime.
//
//   runtime_steps model.int8.onnx
//
// Fails if the headers allocate at all after the first step. Prints both counts.
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <new>

#include "spikedeploy/spikedeploy.h"

extern "C" {
void* __libc_malloc(std::size_t bytes);
void* __libc_calloc(std::size_t count, std::size_t bytes);
void* __libc_realloc(void* old, std::size_t bytes);
void __libc_free(void* memory);
void* __libc_memalign(std::size_t alignment, std::size_t bytes);
extern const char __executable_start;
extern const char etext;
}

namespace {

std::atomic<bool> counting{false};
std::atomic<long> ours{0};
std::atomic<long> others{0};

void Count(const void* caller) {
  if (!counting) return;
  const char* place = static_cast<const char*>(caller);
  ++(place >= &__executable_start && place < &etext ? ours : others);
}

}  // namespace

extern "C" {
void* malloc(std::size_t bytes) {
  Count(__builtin_return_address(0));
  return __libc_malloc(bytes);
}
void* calloc(std::size_t count, std::size_t bytes) {
  Count(__builtin_return_address(0));
  return __libc_calloc(count, bytes);
}
void* realloc(void* old, std::size_t bytes) {
  Count(__builtin_return_address(0));
  return __libc_realloc(old, bytes);
}
void* aligned_alloc(std::size_t alignment, std::size_t bytes) {
  Count(__builtin_return_address(0));
  return __libc_memalign(alignment, bytes);
}
int posix_memalign(void** memory, std::size_t alignment, std::size_t bytes) {
  Count(__builtin_return_address(0));
  *memory = __libc_memalign(alignment, bytes);
  return *memory == nullptr ? ENOMEM : 0;
}
}

__attribute__((noinline)) void* operator new(std::size_t bytes) {
  Count(__builtin_return_address(0));
  void* memory = __libc_malloc(bytes);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
void operator delete(void* memory) noexcept { __libc_free(memory); }
void operator delete(void* memory, std::size_t) noexcept { __libc_free(memory); }

int main(int count, char** arguments) {
  if (count != 2) return 2;
  constexpr int kSteps = 100;
  try {
    const spikedeploy::Session session(arguments[1]);
    spikedeploy::Stream stream(session, {12, 18});
    spikedeploy::EventAccumulator<std::uint8_t> events({12, 18});
    spikedeploy::HotPixelFilter hot({12, 18});
    // That this program's own allocations are seen at all.
    counting = true;
    delete new long(1);
    counting = false;
    if (ours != 1) {
      std::fprintf(stderr, "an allocation of this program was not counted\n");
      return 1;
    }
    ours = others = 0;
    for (int step = 0; step <= kSteps; ++step) {
      counting = step > 0;
      events.Clear();
      for (int i = 0; i < 50; ++i) events.Add((7 * i + step) % 18, (5 * i) % 12, i % 2 == 0);
      hot.Apply(events);
      stream.Step(events);
    }
    counting = false;
  } catch (const spikedeploy::Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 2;
  }
  std::printf("allocations per step: %.2f by the headers, %.2f by ONNX Runtime\n",
              static_cast<double>(ours) / kSteps, static_cast<double>(others) / kSteps);
  return ours == 0 ? 0 : 1;
}
