#include "DeeployBasicMath.h"

static int64_t clamp(int64_t value, int64_t low, int64_t high)
{
    return value < low ? low : value > high ? high : value;
}

void Conv2d_s8_s8_s32_NCHW(const int8_t *in, uint32_t C, uint32_t H, uint32_t W,
                           const int8_t *weight, uint32_t F, uint32_t P, uint32_t Q, uint32_t SP,
                           uint32_t SQ, int32_t *out, int32_t in_offset, int32_t out_offset)
{
    uint32_t f, y, x, c, p, q;
    for (f = 0; f < F; ++f) {
        for (y = 0; y + P <= H; y += SP) {
            for (x = 0; x + Q <= W; x += SQ) {
                int32_t sum = 0;
                for (c = 0; c < C; ++c) {
                    for (p = 0; p < P; ++p) {
                        for (q = 0; q < Q; ++q) {
                            sum += (in[(c * H + y + p) * W + x + q] + in_offset) *
                                   weight[((f * C + c) * P + p) * Q + q];
                        }
                    }
                }
                *out++ = sum + out_offset;
            }
        }
    }
}

#define DEFINE_REQUANT_SHIFT(bits)                                                     \
    REQUANT_SHIFT(bits)                                                                \
    {                                                                                  \
        const int64_t half = log2div > 0 && rounding ? INT64_C(1) << (log2div - 1) : 0; \
        int32_t i;                                                                     \
        for (i = 0; i < size; ++i) {                                                   \
            const int32_t channel = i / pixels;                                        \
            const int64_t sum = (int64_t)(in[i] + in_offset) * mul[channel] + add[channel] + half; \
            out[i] = (int##bits##_t)clamp((sum >> log2div) + out_offset, low, high);   \
        }                                                                              \
    }
DEFINE_REQUANT_SHIFT(8)
DEFINE_REQUANT_SHIFT(16)
DEFINE_REQUANT_SHIFT(32)

#define AFTER_zero(u, threshold, low, high) 0
#define AFTER_subtract(u, threshold, low, high) clamp((u) - (threshold), low, high)
#define AFTER_none(u, threshold, low, high) (u)

/* C's division truncates toward zero, as the definition does. */
#define DEFINE_QLIF(bits, reset)                                                           \
    QLIF(bits, reset)                                                                      \
    {                                                                                      \
        const int64_t low = INT##bits##_MIN, high = INT##bits##_MAX;                       \
        uint32_t c, i;                                                                     \
        for (c = 0; c < channels; ++c) {                                                   \
            for (i = c * pixels; i < (c + 1) * pixels; ++i) {                              \
                const int64_t u = clamp(mem[i] * decay[c] / 256 + current[i], low, high);  \
                spike[i] = u > threshold[c];                                               \
                mem_out[i] = (int##bits##_t)(spike[i] ? AFTER_##reset(u, threshold[c], low, high) : u); \
            }                                                                              \
        }                                                                                  \
    }
DEFINE_QLIF(8, zero)
DEFINE_QLIF(8, subtract)
DEFINE_QLIF(8, none)
DEFINE_QLIF(16, zero)
DEFINE_QLIF(16, subtract)
DEFINE_QLIF(16, none)
