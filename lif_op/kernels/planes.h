// Walks over the channel planes of a tensor [N, C, ...].
//
// Everything in this header has internal linkage on purpose. It is compiled once per instruction
// set; as ordinary inline functions the linker would keep one copy for all of them, possibly one
// with instructions that the CPU at hand does not have. For the same reason the files of the
// targets use nothing from the standard library that could be emitted out of line.
#pragma once

#include <cstdint>

#include "lif_op/types.h"

namespace lif_op {

static inline std::int64_t Min(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

// Calls visit(channel, offset, count) for every run of elements of one channel inside `range`;
// offset is the first element's index in the tensor.
template <class Visit>
static inline void ForEachPlane(const ChannelLayout& layout, Range range, Visit visit) {
  if (range.begin >= range.end) return;
  const std::int64_t plane = range.begin / layout.inner;
  std::int64_t channel = plane % layout.channels;
  std::int64_t plane_end = (plane + 1) * layout.inner;
  for (std::int64_t offset = range.begin; offset < range.end;) {
    const std::int64_t stop = Min(plane_end, range.end);
    visit(channel, offset, stop - offset);
    offset = stop;
    plane_end += layout.inner;
    if (++channel == layout.channels) channel = 0;
  }
}

}  // namespace lif_op
