// One vector register of floats, in the width of the instruction set this translation unit is compiled for.
//
// Everything in the headers below is in an unnamed namespace: each unit has its own copy, and the linker can never
// take one unit's code for another's. For the same reason nothing here instantiates templates of the library.
// maximum(a, b) and minimum(a, b) give b where either is NaN, so a running value comes first only if NaN may be lost.
// whole(x) is the nearest integer, NO_NUMBER where there is none; store_bytes cuts such to 256 from LEAST_BYTE on, store_words
// to 16 bits. Rows of bytes have BYTE_STEPS steps from there on, weights are at most MOST_BYTE.
// words(p) are words as integers of 32 bits, words_of their low halves as words again, side by side.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace {

inline int smaller(int a, int b) { return a < b ? a : b; }
inline int larger(int a, int b) { return a > b ? a : b; }
inline int rounded_up(int n, int step) { return (n + step - 1) / step * step; }
constexpr int32_t NO_NUMBER = INT32_MIN;

}  // namespace

#if defined(__aarch64__)
#include "neon.hpp"
#else
#include <immintrin.h>

namespace {

constexpr float LEAST_BYTE = 0.0f;
#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
constexpr float BYTE_STEPS = 255.0f;
constexpr int MOST_BYTE = 127;
#else
// so that four products have room in a word: 4 * 127 * 63 < 2^15
constexpr float BYTE_STEPS = 127.0f;
constexpr int MOST_BYTE = 63;
#endif

#if defined(__AVX512F__)

constexpr int LANES = 16;
using Vec = __m512;
using Ints = __m512i;

inline Vec load(const float* p) { return _mm512_loadu_ps(p); }
inline Vec load(const int32_t* p) { return _mm512_cvtepi32_ps(_mm512_loadu_si512(p)); }
inline void store(float* p, Vec x) { _mm512_storeu_ps(p, x); }
inline Vec all(float x) { return _mm512_set1_ps(x); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
inline Vec maximum(Vec a, Vec b) { return _mm512_max_ps(a, b); }
inline Vec minimum(Vec a, Vec b) { return _mm512_min_ps(a, b); }
inline Vec magnitude(Vec x) { return _mm512_abs_ps(x); }
inline Vec near_inverse(Vec x) { return _mm512_rcp14_ps(x); }
inline Vec zero_below(Vec x, float least, Vec y) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, all(least), _CMP_NLT_UQ), y);
}
inline Vec rounded(Vec x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline Vec times_power_of_two(Vec x, Vec n) { return _mm512_scalef_ps(x, n); }
inline float sum(Vec x) { return _mm512_reduce_add_ps(x); }
inline float largest(Vec x) { return _mm512_reduce_max_ps(x); }
inline float smallest(Vec x) { return _mm512_reduce_min_ps(x); }
inline Ints whole(Vec x) { return _mm512_cvtps_epi32(x); }
inline Ints minimum(Ints a, Ints b) { return _mm512_min_epi32(a, b); }
inline bool has_no_number(Ints wholes) { return _mm512_cmpeq_epi32_mask(wholes, _mm512_set1_epi32(NO_NUMBER)); }
inline void store_words(int16_t* p, Ints x, Ints y) {
    _mm512_storeu_si512(p, _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), _mm512_packs_epi32(x, y)));
}
inline Vec words(const int16_t* p) {
    return _mm512_castsi512_ps(_mm512_cvtepi16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
}
inline Vec words_of(Vec low, Vec high) {
    const __m512i above = _mm512_slli_epi32(_mm512_castps_si512(high), 16);
    return _mm512_castsi512_ps(_mm512_mask_blend_epi16(0xAAAAAAAA, _mm512_castps_si512(low), above));
}
inline void store_bytes(uint8_t* p, const Ints (&x)[4]) {
    // packing goes by 128 bits
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i packed = _mm512_packus_epi16(_mm512_packs_epi32(x[0], x[1]), _mm512_packs_epi32(x[2], x[3]));
    _mm512_storeu_si512(p, _mm512_permutexvar_epi32(order, packed));
}

#else

constexpr int LANES = 8;
using Vec = __m256;
using Ints = __m256i;

inline Vec load(const float* p) { return _mm256_loadu_ps(p); }
inline Vec load(const int32_t* p) {
    return _mm256_cvtepi32_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline void store(float* p, Vec x) { _mm256_storeu_ps(p, x); }
inline Vec all(float x) { return _mm256_set1_ps(x); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
inline Vec maximum(Vec a, Vec b) { return _mm256_max_ps(a, b); }
inline Vec minimum(Vec a, Vec b) { return _mm256_min_ps(a, b); }
inline Vec magnitude(Vec x) { return _mm256_andnot_ps(all(-0.0f), x); }
inline Vec near_inverse(Vec x) { return _mm256_rcp_ps(x); }
inline Vec zero_below(Vec x, float least, Vec y) { return _mm256_and_ps(_mm256_cmp_ps(x, all(least), _CMP_NLT_UQ), y); }
inline Vec rounded(Vec x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline Vec times_power_of_two(Vec x, Vec n) {  // n whole, -126..127
    return x * _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}
inline float folded(Vec x, __m128 (*fold)(__m128, __m128)) {
    __m128 half = fold(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    half = fold(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(fold(half, _mm_movehdup_ps(half)));
}
inline float sum(Vec x) { return folded(x, [](__m128 a, __m128 b) { return _mm_add_ps(a, b); }); }
inline float largest(Vec x) { return folded(x, [](__m128 a, __m128 b) { return _mm_max_ps(a, b); }); }
inline float smallest(Vec x) { return folded(x, [](__m128 a, __m128 b) { return _mm_min_ps(a, b); }); }
inline Ints whole(Vec x) { return _mm256_cvtps_epi32(x); }
inline Ints minimum(Ints a, Ints b) { return _mm256_min_epi32(a, b); }
inline bool has_no_number(Ints wholes) {
    return _mm256_movemask_epi8(_mm256_cmpeq_epi32(wholes, _mm256_set1_epi32(NO_NUMBER)));
}
inline void store_words(int16_t* p, Ints x, Ints y) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(_mm256_packs_epi32(x, y), 0xD8));
}
inline Vec words(const int16_t* p) {
    return _mm256_castsi256_ps(_mm256_cvtepi16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
inline Vec words_of(Vec low, Vec high) {
    const __m256i above = _mm256_slli_epi32(_mm256_castps_si256(high), 16);
    return _mm256_castsi256_ps(_mm256_blend_epi16(_mm256_castps_si256(low), above, 0xAA));
}
inline void store_bytes(uint8_t* p, const Ints (&x)[4]) {
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);  // packing goes by 128 bits
    const __m256i packed = _mm256_packus_epi16(_mm256_packs_epi32(x[0], x[1]), _mm256_packs_epi32(x[2], x[3]));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permutevar8x32_epi32(packed, order));
}

#endif

}  // namespace
#endif

namespace {

inline Vec zero() { return all(0.0f); }
// Not a number where either is.
inline Vec larger_or_nan(Vec a, Vec b) { return fma(a + b, zero(), maximum(a, b)); }

// 1 / x for x from 1 to 1e30, to the last bit but one.
inline Vec inverse(Vec x) {
    const Vec near = near_inverse(x);
    return fma(near, fma(-x, near, all(1.0f)), near);
}

// 2^x for x <= 126, to 2e-9 relative (Exact) or 8e-5, which is below what bfloat16 keeps. Below -120 it is 2^-120: no
// sum in float32 feels that beside 1, and results that are not normal numbers cost a hundred cycles each.
template <bool Exact>
inline Vec exp2(Vec x) {
    x = maximum(all(-120.0f), x);
    const Vec n = rounded(x), f = x - n;
    Vec p;
    if constexpr (Exact) {
        p = fma(all(0.00015345810970757157f), f, all(0.0013399930903688073f));
        p = fma(p, f, all(0.009618489071726799f));
        p = fma(p, f, all(0.05550328642129898f));
        p = fma(p, f, all(0.24022646248340607f));
        p = fma(p, f, all(0.6931471824645996f));
        p = fma(p, f, all(1.0f));
    } else {
        p = fma(all(0.055171653628349304f), f, all(0.2426111251115799f));
        p = fma(p, f, all(0.6932609677314758f));
        p = fma(p, f, all(0.9999280571937561f));
    }
    return times_power_of_two(p, n);
}

// The same, but 0 below -100. Products with anything smaller may be no normal numbers, and where a sum begins with such
// ones each of them costs a hundred cycles.
template <bool Exact>
inline Vec exp2_or_zero(Vec x) {
    return zero_below(x, -100.0f, exp2<Exact>(x));
}

// The first type, or the second one.
template <bool First, class A, class B>
struct Chosen {
    using Type = A;
};
template <class A, class B>
struct Chosen<false, A, B> {
    using Type = B;
};

constexpr float LOG2_E = 1.44269504088896341f;

}  // namespace
