// Tiles of bytes by tdpbusd: 16 rows of 64 bytes times 64 rows of 16 bytes, into 16 x 16 sums.
#include <immintrin.h>

#include "kernels/peak/peak_contract.h"

namespace lif_op::amx {
namespace {

// Layout defined by the processor.
struct alignas(64) TileConfig {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfig) == 64, "the processor reads 64 bytes");

}  // namespace

// Tiles 0..3 hold sums, 4 and 5 one operand, 6 and 7 the other, as in a blocked product.
void IntegerPeak(std::int64_t rounds) {
  TileConfig config;
  // The compiler does not know how much of it the next instruction reads.
  __asm__ volatile("" : : "r"(&config) : "memory");
  _tile_loadconfig(&config);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  _tile_zero(6);
  _tile_zero(7);
  for (std::int64_t round = 0; round < rounds; ++round) {
    _tile_dpbusd(0, 4, 6);
    _tile_dpbusd(1, 4, 7);
    _tile_dpbusd(2, 5, 6);
    _tile_dpbusd(3, 5, 7);
  }
  _tile_release();
}

}  // namespace lif_op::amx
