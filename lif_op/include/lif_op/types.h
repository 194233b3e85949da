// Types shared by all kernels.
#pragma once

#include <cstdint>

namespace lif_op {

// What happens to the membrane of a neuron that fires.
enum class Reset { kZero, kSubtract, kNone };

// Half-open range of work items. Every kernel can be asked for any part of its work, in any order
// and from several threads at once; the parts together give what one call over all of it gives.
struct Range {
  std::int64_t begin;
  std::int64_t end;
};

// Layout of a dense tensor [N, C, ...]: `inner` is the product of the dimensions after C, `size`
// the number of elements.
struct ChannelLayout {
  std::int64_t channels;
  std::int64_t inner;
  std::int64_t size;
};

}  // namespace lif_op
