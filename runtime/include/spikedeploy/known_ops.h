// The operators an artifact may be made of; the same as in runtime/known_ops.py, which says why.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "spikedeploy/onnx_file.h"
#include "spikedeploy/status.h"

namespace spikedeploy::detail {

// clang-format off
inline constexpr std::array<std::string_view, 86> kStandardOps = {
    "Abs", "Add", "And", "AveragePool", "BatchNormalization", "BitShift", "BitwiseAnd",
    "BitwiseNot", "BitwiseOr", "BitwiseXor", "Cast", "CastLike", "Ceil", "Clip", "Concat",
    "Constant", "ConstantOfShape", "Conv", "ConvInteger", "ConvTranspose", "DepthToSpace",
    "DequantizeLinear", "Div", "DynamicQuantizeLinear", "Equal", "Erf", "Exp", "Expand",
    "Flatten", "Floor", "Gather", "Gemm", "GlobalAveragePool", "Greater", "GreaterOrEqual",
    "HardSigmoid", "HardSwish", "Identity", "If", "LeakyRelu", "Less", "LessOrEqual", "Log",
    "MatMul", "MatMulInteger", "Max", "MaxPool", "Mean", "Min", "Mod", "Mul", "Neg", "Not", "Or",
    "PRelu", "Pad", "Pow", "QLinearConv", "QLinearMatMul", "QuantizeLinear", "Reciprocal",
    "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "Relu", "Reshape", "Resize", "Round",
    "Shape", "Sigmoid", "Sign", "Size", "Slice", "Softplus", "SpaceToDepth", "Split", "Sqrt", "Squeeze",
    "Sub", "Sum", "Tanh", "Transpose", "Unsqueeze", "Where", "Xor",
};
// clang-format on

inline constexpr std::string_view kLibraryDomain = "snn";
inline constexpr std::string_view kForeignDomain = "SNN_implementation";

inline bool IsLibraryDomain(std::string_view domain) {
  return domain == kLibraryDomain || domain == kForeignDomain;
}

/// Whether it makes a tensor as large as its inputs say.
inline bool Grows(const Node& node) {
  return node.op_type == "ConstantOfShape" || node.op_type == "Expand" || node.op_type == "Pad" ||
         node.op_type == "Resize";
}

/// Refuse what would be computed, and allocated, from constants alone while the file is loaded.
inline Status CheckGrowth(const OnnxFile& file) {
  std::unordered_set<std::string> known;
  for (const ValueInfo& input : file.inputs) known.insert(input.name);
  std::vector<bool> depends(file.nodes.size());
  for (std::size_t i = 0; i < file.nodes.size(); ++i) {
    const Node& node = file.nodes[i];
    bool any = std::any_of(node.inputs.begin(), node.inputs.end(),
                           [&](const std::string& name) { return known.count(name) > 0; });
    for (std::size_t inner = i - node.nested; inner < i; ++inner) any = any || depends[inner];
    if (any) known.insert(node.outputs.begin(), node.outputs.end());
    depends[i] = any;
    if (any || !Grows(node)) continue;
    return {Code::kInvalidArtifact,
            "op " + node.op_type +
                " makes a tensor from constants alone, as large as they say; "
                "store the tensor in the file instead"};
  }
  return Status();
}

/// Refuse operators that an artifact has no use for, and functions in the place of standard ones.
inline Status CheckOps(const OnnxFile& file) {
  for (const Node& node : file.nodes) {
    const bool standard = node.domain.empty() || node.domain == "ai.onnx";
    const bool known = standard && std::binary_search(kStandardOps.begin(), kStandardOps.end(),
                                                      std::string_view(node.op_type));
    // The op library's own ops are ONNX Runtime's to refuse: it knows which it has.
    if (known || IsLibraryDomain(node.domain)) continue;
    return {Code::kInvalidArtifact, "op " + (standard ? "" : node.domain + "::") + node.op_type +
                                        " may not be in an artifact; rewrite the graph without it"};
  }
  for (const std::string& domain : file.function_domains) {
    if (IsLibraryDomain(domain)) continue;
    return {Code::kInvalidArtifact, "has a function in domain '" + domain +
                                        "', which is not the op library's; export it again"};
  }
  for (const auto& [domain, version] : file.opsets) {
    if (domain != kLibraryDomain || version == 1) continue;
    return {Code::kUnsupported, "imports version " + std::to_string(version) +
                                    " of domain snn, these headers know 1; update them"};
  }
  return CheckGrowth(file);
}

}  // namespace spikedeploy::detail
