// A strict reader of JSON text (RFC 8259), for the metadata of artifacts: no comments, no NaN, no
// duplicate keys, at most 32 levels deep.
#pragma once

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "spikedeploy/status.h"

namespace spikedeploy::detail {

/// One JSON value. Members that its kind does not have are empty.
struct Json {
  enum class Kind { kNull, kBool, kNumber, kText, kList, kObject };

  Kind kind = Kind::kNull;
  bool boolean = false;
  double number = 0;
  bool is_integer = false;  ///< written without point and exponent, and in range of integer
  std::int64_t integer = 0;
  std::string text;
  std::vector<Json> items;
  std::vector<std::pair<std::string, Json>> members;

  /// The member of that name, null if there is none.
  const Json* Find(std::string_view key) const {
    for (const auto& [name, value] : members) {
      if (name == key) return &value;
    }
    return nullptr;
  }
};

class JsonReader {
 public:
  explicit JsonReader(std::string_view text) : text_(text) {}

  /// Parse the whole text.
  Status Read(Json* value) {
    SPIKEDEPLOY_RETURN_IF_ERROR(Value(value, 0));
    SkipSpace();
    return place_ == text_.size() ? Status() : Wrong("something follows the value");
  }

 private:
  static constexpr int kMaxDepth = 32;

  Status Wrong(const char* what) const {
    return {Code::kInvalidArtifact,
            "not JSON at byte " + std::to_string(place_) + " (" + what + ")"};
  }

  void SkipSpace() {
    while (place_ < text_.size() &&
           std::string_view(" \t\r\n").find(text_[place_]) != std::string_view::npos) {
      ++place_;
    }
  }

  bool Take(std::string_view token) {
    if (text_.substr(place_, token.size()) != token) return false;
    place_ += token.size();
    return true;
  }

  Status Value(Json* value, int depth) {
    if (depth >= kMaxDepth) return Wrong("nested too deeply");
    SkipSpace();
    if (place_ == text_.size()) return Wrong("it ends here");
    const char c = text_[place_];
    if (c == '{') return Object(value, depth);
    if (c == '[') return List(value, depth);
    if (c == '"') {
      value->kind = Json::Kind::kText;
      return Text(&value->text);
    }
    if (Take("null")) return Status();
    value->kind = Json::Kind::kBool;
    if (Take("true")) {
      value->boolean = true;
      return Status();
    }
    if (Take("false")) return Status();
    return Number(value);
  }

  Status Object(Json* value, int depth) {
    value->kind = Json::Kind::kObject;
    ++place_;
    SkipSpace();
    if (Take("}")) return Status();
    while (true) {
      SkipSpace();
      std::string key;
      if (place_ == text_.size() || text_[place_] != '"') return Wrong("a key was expected");
      SPIKEDEPLOY_RETURN_IF_ERROR(Text(&key));
      if (value->Find(key) != nullptr) return Wrong("a key appears twice");
      SkipSpace();
      if (!Take(":")) return Wrong("a colon was expected");
      Json member;
      SPIKEDEPLOY_RETURN_IF_ERROR(Value(&member, depth + 1));
      value->members.emplace_back(std::move(key), std::move(member));
      SkipSpace();
      if (Take("}")) return Status();
      if (!Take(",")) return Wrong("a comma or } was expected");
    }
  }

  Status List(Json* value, int depth) {
    value->kind = Json::Kind::kList;
    ++place_;
    SkipSpace();
    if (Take("]")) return Status();
    while (true) {
      value->items.emplace_back();
      SPIKEDEPLOY_RETURN_IF_ERROR(Value(&value->items.back(), depth + 1));
      SkipSpace();
      if (Take("]")) return Status();
      if (!Take(",")) return Wrong("a comma or ] was expected");
    }
  }

  Status Text(std::string* text) {
    ++place_;
    while (place_ < text_.size()) {
      const char c = text_[place_++];
      if (c == '"') return Status();
      if (static_cast<unsigned char>(c) < 0x20) return Wrong("a control character in a text");
      if (c != '\\') {
        text->push_back(c);
        continue;
      }
      SPIKEDEPLOY_RETURN_IF_ERROR(Escape(text));
    }
    return Wrong("a text does not end");
  }

  Status Escape(std::string* text) {
    if (place_ == text_.size()) return Wrong("a text does not end");
    const char c = text_[place_++];
    static constexpr std::string_view kFrom = "\"\\/bfnrt";
    static constexpr std::string_view kTo = "\"\\/\b\f\n\r\t";
    const std::size_t which = kFrom.find(c);
    if (which != std::string_view::npos) {
      text->push_back(kTo[which]);
      return Status();
    }
    if (c != 'u') return Wrong("an unknown escape");
    std::uint32_t point = 0;
    SPIKEDEPLOY_RETURN_IF_ERROR(Hex(&point));
    if (point >= 0xD800 && point < 0xDC00) {
      std::uint32_t low = 0;
      if (!Take("\\u")) return Wrong("half a surrogate pair");
      SPIKEDEPLOY_RETURN_IF_ERROR(Hex(&low));
      if (low < 0xDC00 || low > 0xDFFF) return Wrong("half a surrogate pair");
      point = 0x10000 + ((point - 0xD800) << 10) + (low - 0xDC00);
    } else if (point >= 0xDC00 && point < 0xE000) {
      return Wrong("half a surrogate pair");
    }
    AppendUtf8(point, text);
    return Status();
  }

  Status Hex(std::uint32_t* value) {
    for (int i = 0; i < 4; ++i, ++place_) {
      if (place_ == text_.size()) return Wrong("a text does not end");
      const char c = text_[place_];
      const bool digit = c >= '0' && c <= '9';
      const char lower = static_cast<char>(c | 0x20);
      if (!digit && (lower < 'a' || lower > 'f')) return Wrong("a hexadecimal digit was expected");
      *value = *value * 16 + static_cast<std::uint32_t>(digit ? c - '0' : lower - 'a' + 10);
    }
    return Status();
  }

  static void AppendUtf8(std::uint32_t point, std::string* text) {
    const auto add = [text](std::uint32_t byte) { text->push_back(static_cast<char>(byte)); };
    if (point < 0x80) {
      add(point);
      return;
    }
    if (point < 0x800) {
      add(0xC0 | (point >> 6));
    } else {
      if (point < 0x10000) {
        add(0xE0 | (point >> 12));
      } else {
        add(0xF0 | (point >> 18));
        add(0x80 | ((point >> 12) & 0x3F));
      }
      add(0x80 | ((point >> 6) & 0x3F));
    }
    add(0x80 | (point & 0x3F));
  }

  std::size_t Digits() {
    const std::size_t start = place_;
    while (place_ < text_.size() && text_[place_] >= '0' && text_[place_] <= '9') ++place_;
    return place_ - start;
  }

  Status Number(Json* value) {
    value->kind = Json::Kind::kNumber;
    const std::size_t start = place_;
    Take("-");
    const std::size_t first = place_;
    const std::size_t whole = Digits();
    if (whole == 0) return Wrong("a value was expected");
    if (whole > 1 && text_[first] == '0') return Wrong("a number begins with 0");
    value->is_integer = true;
    if (Take(".")) {
      value->is_integer = false;
      if (Digits() == 0) return Wrong("a digit was expected");
    }
    if (Take("e") || Take("E")) {
      value->is_integer = false;
      if (!Take("+")) Take("-");
      if (Digits() == 0) return Wrong("a digit was expected");
    }
    // Whatever the locale.
    const char* begin = text_.data() + start;
    const char* end = text_.data() + place_;
    if (std::from_chars(begin, end, value->number).ec != std::errc()) {
      return Wrong("a number is out of range");
    }
    if (value->is_integer) {
      value->is_integer = std::from_chars(begin, end, value->integer).ec == std::errc();
    }
    return Status();
  }

  std::string_view text_;
  std::size_t place_ = 0;
};

}  // namespace spikedeploy::detail
