// What a core can do at most: loops of nothing but one kind of multiply-accumulate, and a stream.
// Roofs to hold the kernels' times against; no op uses them.
#pragma once

#include <cstdint>
#include <vector>

namespace lif_op {

// Multiply-accumulates of one instruction set, on operands in registers, with as many independent
// sums as keep the core busy.
struct Peak {
  const char* instruction;
  const char* target;  // the kernel target with these instructions, by its name
  const char* operands;
  std::int64_t macs;  // per round
  void (*run)(std::int64_t rounds);
};

// Those that this CPU can run, slowest first.
const std::vector<Peak>& PeaksHere();

// Reads, changes and writes `count` membranes, as a layer does with its state in every step, with
// the widest vectors this CPU has.
void StreamMembranes(std::int16_t* mem, std::int64_t count);

}  // namespace lif_op
