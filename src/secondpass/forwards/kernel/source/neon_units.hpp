// Matrix units of ARM beside float32: bfloat16 and bytes, as dot products or as products of two rows with two columns.
#pragma once

#include "vector.hpp"

namespace {

#if defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
struct BFloat16 {
    using Element = uint16_t;
    using Sum = float;
    using Products = BFloat16;
    using Register = float32x4_t;
    static constexpr bool EXACT = false, SCALED = false, OFFSET = false, TILED = false, LONG = false, PAIRED = true;
    static constexpr int GROUP = 2, BLOCK = 24, WIDTH = PANEL, COLUMNS = PANEL, PLANES = 1, ORDERS = 1;
    struct Scope {};
    static Register dot(Register acc, uint32x4_t rows, uint32x4_t columns) {
        return vbfmmlaq_f32(acc, vreinterpretq_bf16_u32(rows), vreinterpretq_bf16_u32(columns));
    }
    static Register none() { return vdupq_n_f32(0.0f); }
    static uint64x2_t dwords(Register acc) { return vreinterpretq_u64_f32(acc); }
    static Vec value(const float* c) { return load(c); }
    static Vec get(const Element* p) {
        const uint16x8_t both = vld1q_u16(p);
        return {vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(both), 16)),
                vreinterpretq_f32_u32(vshll_high_n_u16(both, 16))};
    }
    static void put(Element* p, Vec x) {
        const bfloat16x8_t both = vcvtq_high_bf16_f32(vcvtq_low_bf16_f32(x.low), x.high);
        vst1q_u16(p, vreinterpretq_u16_bf16(both));
    }
    // Dwords of two values that are bfloat16 already, the first in the low half.
    static float32x4_t pair(float32x4_t first, float32x4_t second) {
        const uint32x4_t above = vreinterpretq_u32_f32(second);
        return vreinterpretq_f32_u32(vsriq_n_u32(above, vreinterpretq_u32_f32(first), 16));
    }
    static Vec pair(Vec first, Vec second) { return {pair(first.low, second.low), pair(first.high, second.high)}; }
};
#endif

#if defined(__ARM_FEATURE_DOTPROD)
// Signed rows against signed columns.
struct Int8 {
    using Element = uint8_t;
    using Sum = int32_t;
    using Register = int32x4_t;
    static constexpr bool EXACT = false, SCALED = true, OFFSET = true, TILED = false, LONG = false;
    static constexpr int GROUP = 4, BLOCK = 24, WIDTH = PANEL, COLUMNS = PANEL, PLANES = 1, ORDERS = 1;
    struct Scope {};
#if defined(__ARM_FEATURE_MATMUL_INT8)
    static constexpr bool PAIRED = true;
    static Register dot(Register acc, uint32x4_t rows, uint32x4_t columns) {
        return vmmlaq_s32(acc, vreinterpretq_s8_u32(rows), vreinterpretq_s8_u32(columns));
    }
    static Register none() { return vdupq_n_s32(0); }
    static uint64x2_t dwords(Register acc) { return vreinterpretq_u64_s32(acc); }
#else
    static constexpr bool PAIRED = false;
    static int32x4_t dot(int32x4_t acc, int8x16_t four, float32x4_t columns) {
        return vdotq_s32(acc, four, vreinterpretq_s8_f32(columns));
    }
    static Vec dot(Vec acc, const char* a, Vec b) {
        int32_t dword;
        memcpy(&dword, a, 4);
        const int8x16_t four = vreinterpretq_s8_s32(vdupq_n_s32(dword));
        return floats({dot(bits(acc).low, four, b.low), dot(bits(acc).high, four, b.high)});
    }
    static void keep(int32_t* c, Vec acc) { store(reinterpret_cast<float*>(c), acc); }
#endif
    static Vec value(const int32_t* c) { return load(c); }
};

// What lies between integer products where there is no bfloat16: functions of it need not be more exact than those are.
// Words are multiplied no faster than float32.
struct NearFloat32 : Float32 {
    using Products = NearFloat32;
    static constexpr bool EXACT = false;
};
#endif

// A register has two rows by two columns. Dwords of two groups of a column stand side by side in one of two zipped
// registers, those of a row follow each other as they lie. Where a row is without another it is multiplied by itself.
template <class Unit, int Rows>
[[gnu::always_inline]] inline void by_pairs(const char* a, size_t stride, const char* panel, int groups,
                                            typename Unit::Sum* c, int width) {
    constexpr int PAIRS = (Rows + 1) / 2, QUARTERS = PANEL / 4;
    const auto second = [](int pair) { return 2 * pair + 1 < Rows ? 2 * pair + 1 : 2 * pair; };
    typename Unit::Register acc[PAIRS][QUARTERS][2];
#pragma GCC unroll 16
    for (int pair = 0; pair < PAIRS; pair++)
#pragma GCC unroll 16
        for (int quarter = 0; quarter < QUARTERS; quarter++) acc[pair][quarter][0] = acc[pair][quarter][1] = Unit::none();
    for (int group = 0; group < groups; group += 2, a += 8, panel += 2 * PANEL * 4) {
        uint32x4_t rows[PAIRS];
#pragma GCC unroll 16
        for (int pair = 0; pair < PAIRS; pair++) {
            const uint8x8_t upper = vld1_u8(reinterpret_cast<const uint8_t*>(a + 2 * pair * stride));
            const uint8x8_t lower = vld1_u8(reinterpret_cast<const uint8_t*>(a + second(pair) * stride));
            rows[pair] = vreinterpretq_u32_u8(vcombine_u8(upper, lower));
        }
#pragma GCC unroll 16
        for (int quarter = 0; quarter < QUARTERS; quarter++) {
            const uint32_t* dwords = reinterpret_cast<const uint32_t*>(panel) + 4 * quarter;
            const uint32x4_t first = vld1q_u32(dwords), next = vld1q_u32(dwords + PANEL);
            const uint32x4_t left = vzip1q_u32(first, next), right = vzip2q_u32(first, next);
#pragma GCC unroll 16
            for (int pair = 0; pair < PAIRS; pair++) {
                acc[pair][quarter][0] = Unit::dot(acc[pair][quarter][0], rows[pair], left);
                acc[pair][quarter][1] = Unit::dot(acc[pair][quarter][1], rows[pair], right);
            }
        }
    }
#pragma GCC unroll 16
    for (int pair = 0; pair < PAIRS; pair++)
#pragma GCC unroll 16
        for (int quarter = 0; quarter < QUARTERS; quarter++) {
            const uint64x2_t left = Unit::dwords(acc[pair][quarter][0]), right = Unit::dwords(acc[pair][quarter][1]);
            uint32_t* upper = reinterpret_cast<uint32_t*>(c + 2 * pair * width) + 4 * quarter;
            vst1q_u32(upper, vreinterpretq_u32_u64(vzip1q_u64(left, right)));
            uint32_t* lower = reinterpret_cast<uint32_t*>(c + second(pair) * width) + 4 * quarter;
            if (second(pair) != 2 * pair) vst1q_u32(lower, vreinterpretq_u32_u64(vzip2q_u64(left, right)));
        }
}

}  // namespace
