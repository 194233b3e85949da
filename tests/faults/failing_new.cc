// Preloaded into a process, makes one allocation of chosen libraries fail: the n-th `operator new`
// that a library whose path holds $FAILING_NEW_LIBRARY asks for after fail_nth_new(n). What the
// standard library allocates on its behalf counts as its own.
#include <dlfcn.h>
#include <unwind.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <new>

namespace {

thread_local long countdown = 0;  // 0: not armed
thread_local bool failed = false;

struct Walk {
  int skip;
  const char* asking;
};

// Finds the file of the nearest frame that is neither this one's nor the standard library's.
_Unwind_Reason_Code Look(_Unwind_Context* context, void* data) {
  Walk& walk = *static_cast<Walk*>(data);
  if (walk.skip-- > 0) return _URC_NO_REASON;
  Dl_info info;
  if (dladdr(reinterpret_cast<void*>(_Unwind_GetIP(context)), &info) == 0) return _URC_END_OF_STACK;
  if (std::strstr(info.dli_fname, "libstdc++") != nullptr) return _URC_NO_REASON;
  if (std::strstr(info.dli_fname, "failing_new") != nullptr) return _URC_NO_REASON;
  walk.asking = info.dli_fname;
  return _URC_END_OF_STACK;
}

bool AskedByLibrary() {
  static const char* const wanted = std::getenv("FAILING_NEW_LIBRARY");
  Walk walk{1, nullptr};
  _Unwind_Backtrace(Look, &walk);
  return wanted != nullptr && walk.asking != nullptr && std::strstr(walk.asking, wanted) != nullptr;
}

void* Allocate(std::size_t size, std::size_t alignment) {
  if (countdown > 0) {
    const long armed = countdown;
    countdown = 0;  // walking the stack may allocate
    const bool counts = AskedByLibrary();
    countdown = armed;
    if (counts && --countdown == 0) {
      failed = true;
      throw std::bad_alloc();
    }
  }
  void* memory = nullptr;
  if (posix_memalign(&memory, alignment, size == 0 ? 1 : size) != 0) throw std::bad_alloc();
  return memory;
}

}  // namespace

extern "C" void fail_nth_new(long n) {
  countdown = n;
  failed = false;
}

// Disarms; 1 when an allocation failed since fail_nth_new.
extern "C" int new_failed() {
  countdown = 0;
  return failed ? 1 : 0;
}

void* operator new(std::size_t size) { return Allocate(size, alignof(std::max_align_t)); }
void* operator new[](std::size_t size) { return Allocate(size, alignof(std::max_align_t)); }
void* operator new(std::size_t size, std::align_val_t alignment) {
  return Allocate(size, static_cast<std::size_t>(alignment));
}
void* operator new[](std::size_t size, std::align_val_t alignment) {
  return Allocate(size, static_cast<std::size_t>(alignment));
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
