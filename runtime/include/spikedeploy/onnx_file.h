// What has to be known of an ONNX file before it is handed to ONNX Runtime: metadata, inputs,
// outputs and nodes, read from the protobuf wire format (onnx.proto of ONNX, IR version 3 and on).
// Weights are skipped, and nothing outside the bytes is opened.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "spikedeploy/status.h"

namespace spikedeploy::detail {

/// An input or output of a graph. Dimensions are -1 where they are free.
struct ValueInfo {
  std::string name;
  std::int32_t element_type = 0;  ///< onnx.TensorProto.DataType
  bool has_shape = false;
  std::vector<std::int64_t> shape;
};

struct Node {
  std::string domain;
  std::string op_type;
  std::vector<std::string> inputs;
  std::vector<std::string> outputs;
  std::size_t nested = 0;  ///< how many nodes right before it are those of graphs inside it
};

struct OnnxFile {
  std::int64_t ir_version = 0;
  std::vector<std::pair<std::string, std::string>> metadata;
  std::vector<ValueInfo> inputs;   ///< of the main graph
  std::vector<ValueInfo> outputs;  ///< of the main graph
  std::vector<Node> nodes;         ///< of the main graph and of those nested in it
  std::vector<std::pair<std::string, std::int64_t>> opsets;  ///< domain and version
  std::vector<std::string> function_domains;                 ///< of the functions in the file
  bool has_external_data = false;  ///< a tensor anywhere whose values are in another file
};

/// Fields of one protobuf message, one after the other. Any damage ends the iteration with
/// damaged() true; no byte outside the message is ever read.
class WireReader {
 public:
  explicit WireReader(std::string_view bytes) : bytes_(bytes) {}

  /// Move to the next field; false at the end or at damage.
  bool Next() {
    if (damaged_ || place_ == bytes_.size()) return false;
    std::uint64_t tag = 0;
    if (!Varint(&tag) || tag >> 3 == 0 || tag >> 32 != 0) return Damage();
    field_ = static_cast<std::uint32_t>(tag >> 3);
    number_ = 0;
    text_ = {};
    switch (tag & 7) {
      case 0:
        return Varint(&number_) || Damage();
      case 1:
        return Skip(8);
      case 2: {
        std::uint64_t size = 0;
        if (!Varint(&size) || size > bytes_.size() - place_) return Damage();
        text_ = bytes_.substr(place_, static_cast<std::size_t>(size));
        return Skip(static_cast<std::size_t>(size));
      }
      case 5:
        return Skip(4);
      default:
        return Damage();
    }
  }

  std::uint32_t field() const { return field_; }
  std::int64_t number() const { return static_cast<std::int64_t>(number_); }
  std::string_view text() const { return text_; }
  bool damaged() const { return damaged_; }

 private:
  bool Damage() {
    damaged_ = true;
    return false;
  }

  bool Skip(std::size_t count) {
    if (count > bytes_.size() - place_) return Damage();
    place_ += count;
    return true;
  }

  bool Varint(std::uint64_t* value) {
    for (unsigned shift = 0; shift < 64; shift += 7) {
      if (place_ == bytes_.size()) return false;
      const auto byte = static_cast<unsigned char>(bytes_[place_++]);
      *value |= static_cast<std::uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return true;
    }
    return false;
  }

  std::string_view bytes_;
  std::size_t place_ = 0;
  std::uint32_t field_ = 0;
  std::uint64_t number_ = 0;
  std::string_view text_;
  bool damaged_ = false;
};

class OnnxReader {
 public:
  explicit OnnxReader(OnnxFile* file) : file_(file) {}

  Status Read(std::string_view bytes) {
    if (!Model(bytes) || file_->ir_version == 0 || file_->nodes.empty()) {
      return {Code::kInvalidArtifact, "not an ONNX file, or cut off; copy or export it again"};
    }
    return Status();
  }

 private:
  static constexpr int kMaxDepth = 16;

  bool Model(std::string_view bytes) {
    WireReader fields(bytes);
    while (fields.Next()) {
      switch (fields.field()) {
        case 1:
          file_->ir_version = fields.number();
          break;
        case 7:
          if (!Graph(fields.text(), 0)) return false;
          break;
        case 8:
          if (!Opset(fields.text())) return false;
          break;
        case 14:
          if (!Metadata(fields.text())) return false;
          break;
        case 25:
          if (!Function(fields.text())) return false;
          break;
        default:
          break;
      }
    }
    return !fields.damaged();
  }

  bool Metadata(std::string_view bytes) {
    WireReader fields(bytes);
    std::pair<std::string, std::string> entry;
    while (fields.Next()) {
      if (fields.field() == 1) entry.first = fields.text();
      if (fields.field() == 2) entry.second = fields.text();
    }
    file_->metadata.push_back(std::move(entry));
    return !fields.damaged();
  }

  bool Opset(std::string_view bytes) {
    WireReader fields(bytes);
    std::pair<std::string, std::int64_t> entry;
    while (fields.Next()) {
      if (fields.field() == 1) entry.first = fields.text();
      if (fields.field() == 2) entry.second = fields.number();
    }
    file_->opsets.push_back(std::move(entry));
    return !fields.damaged();
  }

  // Bodies of functions hold tensors, too; their nodes are not the graph's.
  bool Function(std::string_view bytes) {
    WireReader fields(bytes);
    std::string domain;
    while (fields.Next()) {
      Node unused;
      if (fields.field() == 7 && !ReadNode(fields.text(), 0, &unused)) return false;
      if (fields.field() == 10) domain = fields.text();
    }
    file_->function_domains.push_back(std::move(domain));
    return !fields.damaged();
  }

  bool Graph(std::string_view bytes, int depth) {
    if (depth >= kMaxDepth) return false;
    WireReader fields(bytes);
    while (fields.Next()) {
      bool good = true;
      if (fields.field() == 1) {
        Node node;
        const std::size_t before = file_->nodes.size();
        good = ReadNode(fields.text(), depth, &node);
        node.nested = file_->nodes.size() - before;
        file_->nodes.push_back(std::move(node));
      } else if (fields.field() == 5) {
        good = Tensor(fields.text());
      } else if (fields.field() == 15) {
        good = SparseTensor(fields.text());
      } else if (depth == 0 && fields.field() == 11) {
        good = Value(fields.text(), &file_->inputs);
      } else if (depth == 0 && fields.field() == 12) {
        good = Value(fields.text(), &file_->outputs);
      }
      if (!good) return false;
    }
    return !fields.damaged();
  }

  bool ReadNode(std::string_view bytes, int depth, Node* node) {
    WireReader fields(bytes);
    while (fields.Next()) {
      switch (fields.field()) {
        case 1:
          node->inputs.emplace_back(fields.text());
          break;
        case 2:
          node->outputs.emplace_back(fields.text());
          break;
        case 4:
          node->op_type = fields.text();
          break;
        case 5:
          if (!Attribute(fields.text(), depth)) return false;
          break;
        case 7:
          node->domain = fields.text();
          break;
        default:
          break;
      }
    }
    return !fields.damaged();
  }

  bool Attribute(std::string_view bytes, int depth) {
    WireReader fields(bytes);
    while (fields.Next()) {
      bool good = true;
      if (fields.field() == 5 || fields.field() == 10) good = Tensor(fields.text());
      if (fields.field() == 6 || fields.field() == 11) good = Graph(fields.text(), depth + 1);
      if (fields.field() == 22 || fields.field() == 23) good = SparseTensor(fields.text());
      if (!good) return false;
    }
    return !fields.damaged();
  }

  bool SparseTensor(std::string_view bytes) {
    WireReader fields(bytes);
    while (fields.Next()) {
      if ((fields.field() == 1 || fields.field() == 2) && !Tensor(fields.text())) return false;
    }
    return !fields.damaged();
  }

  bool Tensor(std::string_view bytes) {
    WireReader fields(bytes);
    while (fields.Next()) {
      if (fields.field() == 13 || (fields.field() == 14 && fields.number() != 0)) {
        file_->has_external_data = true;
      }
    }
    return !fields.damaged();
  }

  static bool Value(std::string_view bytes, std::vector<ValueInfo>* values) {
    WireReader fields(bytes);
    ValueInfo value;
    while (fields.Next()) {
      if (fields.field() == 1) value.name = fields.text();
      if (fields.field() == 2 && !Type(fields.text(), &value)) return false;
    }
    values->push_back(std::move(value));
    return !fields.damaged();
  }

  static bool Type(std::string_view bytes, ValueInfo* value) {
    WireReader fields(bytes);
    while (fields.Next()) {
      if (fields.field() != 1) continue;
      WireReader tensor(fields.text());
      while (tensor.Next()) {
        if (tensor.field() == 1) value->element_type = static_cast<std::int32_t>(tensor.number());
        if (tensor.field() == 2 && !Shape(tensor.text(), value)) return false;
      }
      if (tensor.damaged()) return false;
    }
    return !fields.damaged();
  }

  static bool Shape(std::string_view bytes, ValueInfo* value) {
    value->has_shape = true;
    WireReader fields(bytes);
    while (fields.Next()) {
      if (fields.field() != 1) continue;
      std::int64_t size = -1;
      WireReader dimension(fields.text());
      while (dimension.Next()) {
        if (dimension.field() == 1) size = dimension.number();
      }
      if (dimension.damaged()) return false;
      value->shape.push_back(size);
    }
    return !fields.damaged();
  }

  OnnxFile* file_;
};

}  // namespace spikedeploy::detail
