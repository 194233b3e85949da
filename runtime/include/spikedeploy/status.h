// Outcomes: a Status everywhere, and an exception that carries one where exceptions are wanted.
//
// Everything that can fail has a form that returns a Status and never throws by itself.
// Constructors and functions that throw spikedeploy::Error instead exist unless
// SPIKEDEPLOY_NO_EXCEPTIONS is defined before the first include; then the headers compile with
// -fno-exceptions.
#pragma once

#include <string>
#include <utility>
#ifndef SPIKEDEPLOY_NO_EXCEPTIONS
#include <stdexcept>
#endif

namespace spikedeploy {

enum class Code {
  kOk = 0,
  kNotFound,         ///< a file or library that is not there
  kInvalidArtifact,  ///< not an ONNX file, no metadata, or metadata and graph disagree
  kUnsupported,      ///< a schema, runtime or setting that this version does not know
  kInvalidArgument,  ///< an input of another type or size, or a state of another model
  kRuntime,          ///< ONNX Runtime refuses the file or fails at a step
};

/// How a call ended. The message is one line that names the thing and says what to do.
class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Code code, std::string message) : code_(code), message_(std::move(message)) {}

  bool ok() const { return code_ == Code::kOk; }
  Code code() const { return code_; }
  const std::string& message() const { return message_; }

 private:
  Code code_ = Code::kOk;
  std::string message_;
};

#ifndef SPIKEDEPLOY_NO_EXCEPTIONS
/// What the throwing forms throw.
class Error : public std::runtime_error {
 public:
  explicit Error(const Status& status)
      : std::runtime_error(status.message()), code_(status.code()) {}
  Code code() const { return code_; }

 private:
  Code code_;
};

namespace detail {
inline void ThrowUnlessOk(const Status& status) {
  if (!status.ok()) throw Error(status);
}
}  // namespace detail
#endif

}  // namespace spikedeploy

#define SPIKEDEPLOY_RETURN_IF_ERROR(expression)                  \
  do {                                                           \
    ::spikedeploy::Status status_of_expression = (expression);   \
    if (!status_of_expression.ok()) return status_of_expression; \
  } while (false)
