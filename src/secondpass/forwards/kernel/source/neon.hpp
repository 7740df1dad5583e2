// The registers of vector.hpp on ARM: two of 128 bits stand for one, so that a block of six rows with two of them fills
// the 32 that there are, and weights lie as they do for AVX2.
#pragma once

#include <arm_neon.h>

#include <cstddef>
#include <cstdint>

namespace {

constexpr int LANES = 8;
struct Vec {
    float32x4_t low, high;
};
struct Ints {
    int32x4_t low, high;
};

inline Vec operator+(Vec a, Vec b) { return {vaddq_f32(a.low, b.low), vaddq_f32(a.high, b.high)}; }
inline Vec operator-(Vec a, Vec b) { return {vsubq_f32(a.low, b.low), vsubq_f32(a.high, b.high)}; }
inline Vec operator*(Vec a, Vec b) { return {vmulq_f32(a.low, b.low), vmulq_f32(a.high, b.high)}; }
inline Vec operator/(Vec a, Vec b) { return {vdivq_f32(a.low, b.low), vdivq_f32(a.high, b.high)}; }
inline Vec operator-(Vec x) { return {vnegq_f32(x.low), vnegq_f32(x.high)}; }

inline Ints bits(Vec x) { return {vreinterpretq_s32_f32(x.low), vreinterpretq_s32_f32(x.high)}; }
inline Vec floats(Ints x) { return {vreinterpretq_f32_s32(x.low), vreinterpretq_f32_s32(x.high)}; }

inline Vec load(const float* p) { return {vld1q_f32(p), vld1q_f32(p + 4)}; }
inline Vec load(const int32_t* p) { return {vcvtq_f32_s32(vld1q_s32(p)), vcvtq_f32_s32(vld1q_s32(p + 4))}; }
inline void store(float* p, Vec x) {
    vst1q_f32(p, x.low);
    vst1q_f32(p + 4, x.high);
}
inline Vec all(float x) { return {vdupq_n_f32(x), vdupq_n_f32(x)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {vfmaq_f32(c.low, a.low, b.low), vfmaq_f32(c.high, a.high, b.high)}; }

// The processor's own maximum is not a number where either is.
inline float32x4_t maximum(float32x4_t a, float32x4_t b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
inline float32x4_t minimum(float32x4_t a, float32x4_t b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
inline Vec maximum(Vec a, Vec b) { return {maximum(a.low, b.low), maximum(a.high, b.high)}; }
inline Vec minimum(Vec a, Vec b) { return {minimum(a.low, b.low), minimum(a.high, b.high)}; }
inline Vec magnitude(Vec x) { return {vabsq_f32(x.low), vabsq_f32(x.high)}; }

// To 16 bits: the estimate has 8, and a step of Newton's method doubles them.
inline float32x4_t near_inverse(float32x4_t x) {
    const float32x4_t near = vrecpeq_f32(x);
    return vmulq_f32(near, vrecpsq_f32(x, near));
}
inline Vec near_inverse(Vec x) { return {near_inverse(x.low), near_inverse(x.high)}; }

inline float32x4_t zero_below(float32x4_t x, float least, float32x4_t y) {
    const uint32x4_t below = vcltq_f32(x, vdupq_n_f32(least));
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(y), below));
}
inline Vec zero_below(Vec x, float least, Vec y) {
    return {zero_below(x.low, least, y.low), zero_below(x.high, least, y.high)};
}
inline Vec rounded(Vec x) { return {vrndnq_f32(x.low), vrndnq_f32(x.high)}; }

// What has this exponent, for whole numbers from -126 to 127.
inline float32x4_t power_of_two(float32x4_t n) {
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127)), 23));
}
inline Vec times_power_of_two(Vec x, Vec n) { return x * Vec{power_of_two(n.low), power_of_two(n.high)}; }

inline float sum(Vec x) { return vaddvq_f32(vaddq_f32(x.low, x.high)); }
inline float largest(Vec x) { return vmaxvq_f32(vmaxq_f32(x.low, x.high)); }
inline float smallest(Vec x) { return vminvq_f32(vminq_f32(x.low, x.high)); }

// The processor makes 0 of what is no number, and the largest integer of what is larger.
inline int32x4_t whole(float32x4_t x) {
    return vbslq_s32(vcaltq_f32(x, vdupq_n_f32(2147483648.0f)), vcvtnq_s32_f32(x), vdupq_n_s32(NO_NUMBER));
}
inline Ints whole(Vec x) { return {whole(x.low), whole(x.high)}; }
inline Ints minimum(Ints a, Ints b) { return {vminq_s32(a.low, b.low), vminq_s32(a.high, b.high)}; }
inline bool has_no_number(Ints x) { return vminvq_s32(vminq_s32(x.low, x.high)) == NO_NUMBER; }

inline int16x8_t cut(Ints x) { return vcombine_s16(vqmovn_s32(x.low), vqmovn_s32(x.high)); }
inline void store_words(int16_t* p, Ints x, Ints y) {
    vst1q_s16(p, cut(x));
    vst1q_s16(p + LANES, cut(y));
}
// Products of bytes are of signed ones here.
constexpr float LEAST_BYTE = -128.0f, BYTE_STEPS = 255.0f;
constexpr int MOST_BYTE = 127;
inline void store_bytes(uint8_t* p, const Ints (&x)[4]) {
    for (int part = 0; part < 4; part++)
        vst1_u8(p + part * LANES, vreinterpret_u8_s8(vqmovn_s16(cut(x[part]))));
}

}  // namespace
