// The part of the ONNX Runtime C API that runs a model, taken from libonnxruntime at run time.
//
// The runtime hands out its API as a table of function pointers that only ever grows: a function
// keeps its slot forever. So a list of slots and signatures is all a program needs: no header of
// ONNX Runtime, nothing to link, and any version from 1.18 on, the one inside the onnxruntime wheel
// for example. tests/runtime/cpp/abi_check.cc proves the list against the official headers.
#pragma once

#include <dlfcn.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "spikedeploy/status.h"

namespace spikedeploy::ort {

/// Version of the API that is asked for; every slot below exists since then.
inline constexpr std::uint32_t kApiVersion = 18;
inline constexpr char kOldestRuntime[] = "1.18";

// Objects that only the runtime looks into.
struct Env;
struct IoBinding;
struct MemoryInfo;
struct RawApi;
struct RawStatus;
struct RunOptions;
struct Session;
struct SessionOptions;
struct Value;

enum class LoggingLevel : int { kError = 3 };
enum class OptimizationLevel : int { kOff = 0, kBasic = 1, kExtended = 2, kAll = 99 };
enum class AllocatorType : int { kDevice = 0 };
enum class MemType : int { kDefault = 0 };

// X(slot, name, return type, parameters)
#define SPIKEDEPLOY_ORT_SLOTS(X)                                                             \
  X(2, GetErrorMessage, const char*, (const RawStatus*))                                     \
  X(3, CreateEnv, RawStatus*, (LoggingLevel, const char*, Env**))                            \
  X(8, CreateSessionFromArray, RawStatus*,                                                   \
    (const Env*, const void*, std::size_t, const SessionOptions*, Session**))                \
  X(10, CreateSessionOptions, RawStatus*, (SessionOptions**))                                \
  X(11, SetOptimizedModelFilePath, RawStatus*, (SessionOptions*, const char*))               \
  X(22, SetSessionLogSeverityLevel, RawStatus*, (SessionOptions*, int))                      \
  X(23, SetSessionGraphOptimizationLevel, RawStatus*, (SessionOptions*, OptimizationLevel))  \
  X(24, SetIntraOpNumThreads, RawStatus*, (SessionOptions*, int))                            \
  X(25, SetInterOpNumThreads, RawStatus*, (SessionOptions*, int))                            \
  X(49, CreateTensorWithDataAsOrtValue, RawStatus*,                                          \
    (const MemoryInfo*, void*, std::size_t, const std::int64_t*, std::size_t, int, Value**)) \
  X(69, CreateCpuMemoryInfo, RawStatus*, (AllocatorType, MemType, MemoryInfo**))             \
  X(92, ReleaseEnv, void, (Env*))                                                            \
  X(93, ReleaseStatus, void, (RawStatus*))                                                   \
  X(94, ReleaseMemoryInfo, void, (MemoryInfo*))                                              \
  X(95, ReleaseSession, void, (Session*))                                                    \
  X(96, ReleaseValue, void, (Value*))                                                        \
  X(100, ReleaseSessionOptions, void, (SessionOptions*))                                     \
  X(130, AddSessionConfigEntry, RawStatus*, (SessionOptions*, const char*, const char*))     \
  X(133, RunWithBinding, RawStatus*, (Session*, const RunOptions*, const IoBinding*))        \
  X(134, CreateIoBinding, RawStatus*, (Session*, IoBinding**))                               \
  X(135, ReleaseIoBinding, void, (IoBinding*))                                               \
  X(136, BindInput, RawStatus*, (IoBinding*, const char*, const Value*))                     \
  X(137, BindOutput, RawStatus*, (IoBinding*, const char*, const Value*))                    \
  X(228, RegisterCustomOpsLibrary_V2, RawStatus*, (SessionOptions*, const char*))

/// The functions of one runtime.
struct Api {
#define SPIKEDEPLOY_ORT_MEMBER(slot, name, result, parameters) result(*name) parameters;
  SPIKEDEPLOY_ORT_SLOTS(SPIKEDEPLOY_ORT_MEMBER)
#undef SPIKEDEPLOY_ORT_MEMBER
};

/// What libonnxruntime exports, through OrtGetApiBase.
struct ApiBase {
  const RawApi* (*GetApi)(std::uint32_t version);
  const char* (*GetVersionString)();
};

/// A loaded ONNX Runtime. Copies share it; the library stays loaded until the process ends, since
/// its threads may outlive every session.
class Runtime {
 public:
  /// Load libonnxruntime: `path` if given, else the file named by the environment variable
  /// SPIKEDEPLOY_ONNXRUNTIME, else the one that CMake's find_package(spikedeploy) found, else
  /// what the dynamic linker finds.
  static Status Load(const std::string& path, Runtime* runtime) {
    std::string tried;
    void* library = nullptr;
    for (const std::string& name : Candidates(path)) {
      library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
      if (library != nullptr) return FromLibrary(library, name, runtime);
      const char* reason = dlerror();
      tried += (tried.empty() ? "" : "; ") + std::string(reason == nullptr ? name : reason);
    }
    return {Code::kNotFound, "no ONNX Runtime (" + tried +
                                 "); name libonnxruntime.so in Options::onnxruntime or in the "
                                 "environment variable SPIKEDEPLOY_ONNXRUNTIME"};
  }

  const Api& api() const { return *api_; }
  const Env* env() const { return env_.get(); }
  const std::string& version() const { return version_; }

  /// A Status of what the runtime returned, which is released. `where` begins the message.
  Status Check(RawStatus* raw, const std::string& where) const {
    if (raw == nullptr) return Status();
    std::string message = api_->GetErrorMessage(raw);
    api_->ReleaseStatus(raw);
    message.resize(std::min(message.find('\n'), message.size()));
    return {Code::kRuntime, where + " (" + message + ")"};
  }

 private:
  static std::vector<std::string> Candidates(const std::string& path) {
    if (!path.empty()) return {path};
    const char* named = std::getenv("SPIKEDEPLOY_ONNXRUNTIME");
    if (named != nullptr && *named != '\0') return {named};
    std::vector<std::string> names;
#ifdef SPIKEDEPLOY_ONNXRUNTIME_PATH
    names.emplace_back(SPIKEDEPLOY_ONNXRUNTIME_PATH);
#endif
    names.emplace_back("libonnxruntime.so.1");
    names.emplace_back("libonnxruntime.so");
    return names;
  }

  static Status FromLibrary(void* library, const std::string& name, Runtime* runtime) {
    void* symbol = dlsym(library, "OrtGetApiBase");
    if (symbol == nullptr) {
      return {Code::kUnsupported, name + " is not ONNX Runtime (it has no OrtGetApiBase)"};
    }
    const ApiBase* base = reinterpret_cast<const ApiBase* (*)()>(symbol)();
    const RawApi* raw = base->GetApi(kApiVersion);
    if (raw == nullptr) {
      return {Code::kUnsupported, name + " is ONNX Runtime " + base->GetVersionString() + "; " +
                                      kOldestRuntime + " or newer is needed"};
    }
    runtime->version_ = base->GetVersionString();
    return runtime->Start(TableOf(raw));
  }

  static Api TableOf(const RawApi* raw) {
    const auto* slots = reinterpret_cast<void* const*>(raw);
    Api api{};
#define SPIKEDEPLOY_ORT_TAKE(slot, name, result, parameters) \
  api.name = reinterpret_cast<decltype(api.name)>(slots[slot]);
    SPIKEDEPLOY_ORT_SLOTS(SPIKEDEPLOY_ORT_TAKE)
#undef SPIKEDEPLOY_ORT_TAKE
    return api;
  }

  Status Start(const Api& api) {
    api_ = std::make_shared<Api>(api);
    Env* env = nullptr;
    SPIKEDEPLOY_RETURN_IF_ERROR(Check(api_->CreateEnv(LoggingLevel::kError, "spikedeploy", &env),
                                      "ONNX Runtime does not start"));
    env_ = std::shared_ptr<Env>(env, [table = api_](Env* old) { table->ReleaseEnv(old); });
    return Status();
  }

  std::shared_ptr<Api> api_;
  std::shared_ptr<Env> env_;
  std::string version_;
};

/// Owner of one object of the runtime. It holds the Runtime, which therefore outlives it.
template <class Object>
class Handle {
 public:
  using Release = void (*Api::*)(Object*);

  Handle() = default;
  Handle(Runtime runtime, Release release, Object* object)
      : runtime_(std::move(runtime)), release_(release), object_(object) {}
  Handle(Handle&& other) noexcept { *this = std::move(other); }
  Handle& operator=(Handle&& other) noexcept {
    std::swap(runtime_, other.runtime_);
    std::swap(release_, other.release_);
    std::swap(object_, other.object_);
    return *this;
  }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  ~Handle() {
    if (object_ != nullptr) (runtime_.api().*release_)(object_);
  }

  Object* get() const { return object_; }

 private:
  Runtime runtime_;
  Release release_ = nullptr;
  Object* object_ = nullptr;
};

}  // namespace spikedeploy::ort
