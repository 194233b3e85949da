// Memory with the alignment that packed tensors of kernels have, and not a byte more than asked
// for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>

#include "lif_op/qconv.h"

namespace fuzz {

class Aligned {
 public:
  explicit Aligned(std::size_t bytes)
      : data_(::operator new(bytes, std::align_val_t{lif_op::kQconvAlignment})) {}
  ~Aligned() { ::operator delete(data_, std::align_val_t{lif_op::kQconvAlignment}); }
  Aligned(const Aligned&) = delete;
  Aligned& operator=(const Aligned&) = delete;

  void* data() const { return data_; }

 private:
  void* data_;
};

}  // namespace fuzz
