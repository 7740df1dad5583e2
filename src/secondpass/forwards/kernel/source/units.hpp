// Matrix units: how one block of rows is multiplied with one panel of columns in each precision.
//
// multiply<Unit>(a, stride, panel, groups, rows, c, width): c[row][column] = sum over depth of a[row] * panel for up to
// BLOCK rows and WIDTH columns (of those of a panel, from where `panel` points on). Rows of
// `a` are `stride` bytes apart; each value of c is summed in the same order whatever the other rows are.
// A scaled unit multiplies integers; value(c) is the float, before it is scaled; with an offset, rows begin at their least
// value. What lies between products is attended to in its Products. A unit that is PAIRED multiplies rows two by two, one
// that is DEEP two groups at a time.
#pragma once

#include "vector.hpp"

namespace {

constexpr int PANEL = 2 * LANES;  // columns of a panel: two registers

struct Span {
    int begin, end;
    int size() const { return end - begin; }
};

struct Float32 {
    using Element = float;
    using Sum = float;
    using Products = Float32;
    static constexpr bool EXACT = true, SCALED = false, OFFSET = false, TILED = false, LONG = false, PAIRED = false;
    static constexpr int GROUP = 1, BLOCK = 24, WIDTH = PANEL, COLUMNS = PANEL, PLANES = 1, ORDERS = 1;
    struct Scope {};
    static Vec dot(Vec acc, const char* a, Vec b) {
        float x;
        memcpy(&x, a, 4);
        return fma(all(x), b, acc);
    }
    static void keep(float* c, Vec acc) { store(c, acc); }
    static Vec value(const float* c) { return load(c); }
    static Vec get(const Element* p) { return load(p); }
    static void put(Element* p, Vec x) { store(p, x); }
};

// As `registers` further below, for a unit that is PAIRED.
template <class Unit, int Rows>
void by_pairs(const char* a, size_t stride, const char* panel, int groups, typename Unit::Sum* c, int width);

}  // namespace

#if defined(__aarch64__)
#include "neon_units.hpp"
#endif

namespace {

#if defined(__AVX512BF16__)
struct BFloat16 {
    using Element = uint16_t;
    using Sum = float;
    using Products = BFloat16;
    static constexpr bool EXACT = false, SCALED = false, OFFSET = false, TILED = false, LONG = false, PAIRED = false;
    static constexpr int GROUP = 2, BLOCK = 24, WIDTH = PANEL, COLUMNS = PANEL, PLANES = 1, ORDERS = 1;
    struct Scope {};
    static Vec dot(Vec acc, const char* a, Vec b) {
        int32_t pair;
        memcpy(&pair, a, 4);
        return _mm512_dpbf16_ps(acc, (__m512bh)_mm512_set1_epi32(pair), (__m512bh)b);
    }
    static void keep(float* c, Vec acc) { store(c, acc); }
    static Vec value(const float* c) { return load(c); }
    static Vec get(const Element* p) {
        const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
    }
    static void put(Element* p, Vec x) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), (__m256i)_mm512_cvtneps_pbh(x));
    }
    // Dwords of two values that are bfloat16 already, the first in the low half.
    static Vec pair(Vec first, Vec second) {
        const Ints low = _mm512_srli_epi32(_mm512_castps_si512(first), 16);
        return _mm512_castsi512_ps(_mm512_or_si512(low, _mm512_castps_si512(second)));
    }
};
#endif

template <class Unit>
constexpr bool DEEP = false;

#if defined(__x86_64__) && (!defined(__AVX512F__) || defined(__AVX512VNNI__))
// Unsigned rows against signed columns.
struct Int8 {
    using Element = uint8_t;
    using Sum = int32_t;
    static constexpr bool EXACT = false, SCALED = true, OFFSET = true, TILED = false, LONG = false, PAIRED = false;
    static constexpr int GROUP = 4, BLOCK = 24, WIDTH = PANEL, COLUMNS = PANEL, PLANES = 1, ORDERS = 1;
    struct Scope {};
#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
    static Vec dot(Vec acc, const char* a, Vec b) {
        int32_t four;
        memcpy(&four, a, 4);
#if defined(__AVX512VNNI__)
        return _mm512_castsi512_ps(
            _mm512_dpbusd_epi32(_mm512_castps_si512(acc), _mm512_set1_epi32(four), _mm512_castps_si512(b)));
#else
        return _mm256_castsi256_ps(
            _mm256_dpbusd_avx_epi32(_mm256_castps_si256(acc), _mm256_set1_epi32(four), _mm256_castps_si256(b)));
#endif
    }
#else
    // Two groups: what becomes a sum of 32 bits is a sum of four products in 16.
    static Vec dot(Vec acc, const char* a, Vec b, Vec next) {
        int32_t four[2];
        memcpy(four, a, 8);
        const __m256i words = _mm256_add_epi16(_mm256_maddubs_epi16(_mm256_set1_epi32(four[0]), _mm256_castps_si256(b)),
                                               _mm256_maddubs_epi16(_mm256_set1_epi32(four[1]), _mm256_castps_si256(next)));
        return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(acc), _mm256_madd_epi16(words, _mm256_set1_epi16(1))));
    }
#endif
    static void keep(int32_t* c, Vec acc) { store(reinterpret_cast<float*>(c), acc); }
    static Vec value(const int32_t* c) { return load(c); }
};
#if !defined(__AVX512VNNI__) && !defined(__AVXVNNI__)
template <>
constexpr bool DEEP<Int8> = true;
#endif

// Signed words: half as many products as of bytes in the same time, twice as many as of float32, also where products are
// added up by an instruction of its own. How large they may be depends on how many make a sum, which has 32 bits.
struct Int16 {
    using Element = int16_t;
    using Sum = int32_t;
    static constexpr bool EXACT = false, SCALED = true, OFFSET = false, TILED = false, LONG = false, PAIRED = false;
    static constexpr int GROUP = 2, BLOCK = 24, WIDTH = PANEL, COLUMNS = PANEL, PLANES = 1, ORDERS = 1;
    static constexpr float MOST = 4095.0f;  // of rows; weights are at most 1365, and 4095 * 1365 * 384 < 2^31
    struct Scope {};
    static Vec dot(Vec acc, const char* a, Vec b) {
        int32_t two;
        memcpy(&two, a, 4);
#if defined(__AVX512VNNI__)
        return _mm512_castsi512_ps(
            _mm512_dpwssd_epi32(_mm512_castps_si512(acc), _mm512_set1_epi32(two), _mm512_castps_si512(b)));
#elif defined(__AVXVNNI__)
        return _mm256_castsi256_ps(
            _mm256_dpwssd_avx_epi32(_mm256_castps_si256(acc), _mm256_set1_epi32(two), _mm256_castps_si256(b)));
#else
        return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(acc),
                                                    _mm256_madd_epi16(_mm256_set1_epi32(two), _mm256_castps_si256(b))));
#endif
    }
    static void keep(int32_t* c, Vec acc) { store(reinterpret_cast<float*>(c), acc); }
    static Vec value(const int32_t* c) { return load(c); }
    static Vec get(const Element* p) { return words(p); }
    // Dwords of two words, the first in the low half.
    static Vec pair(Vec first, Vec second) { return words_of(first, second); }
};

// What lies between integer products where there is no bfloat16: functions of it need not be more exact than those are,
// and attention multiplies words.
struct NearFloat32 : Float32 {
    using Products = Int16;
    static constexpr bool EXACT = false;
};
#endif

// One group of depth of all rows from `Row` on. A recursion, not a loop: indices that are constants from the beginning are
// what lets the compiler keep sums in registers; in a loop that it unrolls later it stores them at every step.
template <class Unit, int Row, int Rows>
[[gnu::always_inline]] inline void step(Vec (&acc)[Rows][2], const char* a, size_t stride, Vec left, Vec right) {
    acc[Row][0] = Unit::dot(acc[Row][0], a + Row * stride, left);
    acc[Row][1] = Unit::dot(acc[Row][1], a + Row * stride, right);
    if constexpr (Row + 1 < Rows) step<Unit, Row + 1>(acc, a, stride, left, right);
}

// The same of two groups, whose registers are left and right, then left and right of the next.
template <class Unit, int Row, int Rows>
[[gnu::always_inline]] inline void deep_step(Vec (&acc)[Rows][2], const char* a, size_t stride, const Vec (&b)[4]) {
    acc[Row][0] = Unit::dot(acc[Row][0], a + Row * stride, b[0], b[2]);
    acc[Row][1] = Unit::dot(acc[Row][1], a + Row * stride, b[1], b[3]);
    if constexpr (Row + 1 < Rows) deep_step<Unit, Row + 1>(acc, a, stride, b);
}

template <class Unit, int Rows>
void registers(const char* a, size_t stride, const char* panel, int groups, typename Unit::Sum* c, int width) {
    Vec acc[Rows][2];
#pragma GCC unroll 16
    for (int row = 0; row < Rows; row++) acc[row][0] = acc[row][1] = zero();
    const float* columns = reinterpret_cast<const float*>(panel);
    if constexpr (DEEP<Unit>)
        for (int group = 0; group < groups; group += 2, a += 8, columns += 2 * PANEL)
            deep_step<Unit, 0>(acc, a, stride, {load(columns), load(columns + LANES), load(columns + PANEL),
                                                load(columns + PANEL + LANES)});
    else
        for (int group = 0; group < groups; group++, a += 4, columns += PANEL)
            step<Unit, 0>(acc, a, stride, load(columns), load(columns + LANES));
#pragma GCC unroll 16
    for (int row = 0; row < Rows; row++)
        for (int half = 0; half < 2; half++) Unit::keep(c + row * width + half * LANES, acc[row][half]);
}

template <class Unit, int Rows>
void some_registers(const char* a, size_t stride, const char* panel, int groups, int rows, typename Unit::Sum* c,
                    int width) {
    if constexpr (Rows > 1)
        if (rows < Rows) return some_registers<Unit, Rows - 1>(a, stride, panel, groups, rows, c, width);
    if constexpr (Unit::PAIRED)
        by_pairs<Unit, Rows>(a, stride, panel, groups, c, width);
    else
        registers<Unit, Rows>(a, stride, panel, groups, c, width);
}

// Accumulators, two columns, of two groups four, and a row value must fit into 32 (AVX-512; NEON by two) or 16 registers.
template <class Unit>
void multiply(const char* a, size_t stride, const char* panel, int groups, int rows, typename Unit::Sum* c,
              int width) {
    constexpr int MOST = LANES == 16 ? 12 : DEEP<Unit> ? 4 : 6;
    for (int row = 0; row < rows; row += MOST)
        some_registers<Unit, MOST>(a + row * stride, stride, panel, groups, smaller(MOST, rows - row), c + row * width,
                                   width);
}

// multiply in two parts, for tiles: products(Unit{}, a, stride, panel, groups, rows, between) and writing them to c.
// Where a unit is LONG, between() is called at each of its groups / 16 steps.
template <class Unit>
void keep(typename Unit::Sum* c, int width, int rows);

#if defined(__AMX_TILE__)

// Eight tiles of 16 rows of 64 bytes; the process has asked for them before any of this runs.
struct Tiles {
    Tiles() {
        struct alignas(64) {
            uint8_t palette = 1, start_row = 0, reserved[14] = {};
            uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
            uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
        } config;
        _tile_loadconfig(&config);
    }
    ~Tiles() { _tile_release(); }
};

struct TiledBFloat16 : BFloat16 {
    using Products = TiledBFloat16;
    static constexpr int BLOCK = 32;
    static constexpr bool TILED = true;
    using Scope = Tiles;
};
struct TiledInt8 : Int8 {
    static constexpr int BLOCK = 32;
    static constexpr bool TILED = true;
    using Scope = Tiles;
};

// Whole tiles: reads and writes 16 or 32 rows, so both buffers have that many. Groups come by 16.
#define SECONDPASS_TILED(UNIT, DOT)                                                                                \
    template <class Between>                                                                                       \
    void products(UNIT, const char* a, size_t stride, const char* panel, int groups, int rows, Between) {          \
        _tile_zero(0);                                                                                             \
        _tile_zero(1);                                                                                             \
        if (rows <= 16) {                                                                                          \
            for (int group = 0; group < groups; group += 16, a += 64, panel += 16 * PANEL * 4) {                   \
                _tile_loadd(4, a, stride);                                                                         \
                _tile_loadd(6, panel, PANEL * 4);                                                                  \
                DOT(0, 4, 6);                                                                                      \
                _tile_loadd(7, panel + 64, PANEL * 4);                                                             \
                DOT(1, 4, 7);                                                                                      \
            }                                                                                                      \
        } else {                                                                                                   \
            _tile_zero(2);                                                                                         \
            _tile_zero(3);                                                                                         \
            for (int group = 0; group < groups; group += 16, a += 64, panel += 16 * PANEL * 4) {                   \
                _tile_loadd(4, a, stride);                                                                         \
                _tile_loadd(6, panel, PANEL * 4);                                                                  \
                DOT(0, 4, 6);                                                                                      \
                _tile_loadd(7, panel + 64, PANEL * 4);                                                             \
                DOT(1, 4, 7);                                                                                      \
                _tile_loadd(5, a + 16 * stride, stride);                                                           \
                DOT(2, 5, 6);                                                                                      \
                DOT(3, 5, 7);                                                                                      \
            }                                                                                                      \
        }                                                                                                          \
    }                                                                                                              \
    template <>                                                                                                    \
    void keep<UNIT>(UNIT::Sum* c, int width, int rows) {                                                           \
        const size_t bytes = width * 4;                                                                            \
        _tile_stored(0, c, bytes);                                                                                 \
        _tile_stored(1, c + 16, bytes);                                                                            \
        if (rows <= 16) return;                                                                                    \
        _tile_stored(2, c + 16 * width, bytes);                                                                    \
        _tile_stored(3, c + 16 * width + 16, bytes);                                                               \
    }                                                                                                              \
    template <>                                                                                                    \
    void multiply<UNIT>(const char* a, size_t stride, const char* panel, int groups, int rows, UNIT::Sum* c,       \
                        int width) {                                                                               \
        products(UNIT{}, a, stride, panel, groups, rows, [] {});                                                   \
        keep<UNIT>(c, width, rows);                                                                                \
    }
SECONDPASS_TILED(TiledBFloat16, _tile_dpbf16ps)
SECONDPASS_TILED(TiledInt8, _tile_dpbusd)
#undef SECONDPASS_TILED

// float32 as whole numbers of 24 bits, cut into three signed digits of 8: value = d0 + d1 / 2^8 + d2 / 2^16, times a
// scale of the row or column (the scheme of Ozaki et al., 2012). Products of digits are exact, and so are their sums; of
// the nine products only d2 * d2 is left out. Rows and columns lie by 16, for every 64 values of depth a tile of each
// digit: apart, half of the first cache would be out of reach. Sums of one order (the digits' places added up) share a tile, but for
// one product of order 2: its three, one after another, would take longer than all eight.
struct TiledDigits {
    struct Element {
        int8_t digits[3];
    };
    using Sum = int32_t;
    static constexpr bool EXACT = true, SCALED = true, OFFSET = false, TILED = true, LONG = true;
    static constexpr int GROUP = 4, BLOCK = 16, WIDTH = 16, COLUMNS = 16, PLANES = 3, ORDERS = 5;
    using Scope = Tiles;
    static Vec value(const int32_t* c) {
        constexpr int ORDER = BLOCK * WIDTH;
        const Vec down = all(1.0f / 256.0f);
        const Ints second = _mm512_add_epi32(_mm512_loadu_si512(c + 2 * ORDER), _mm512_loadu_si512(c + 4 * ORDER));
        return fma(fma(fma(load(c + 3 * ORDER), down, _mm512_cvtepi32_ps(second)), down, load(c + ORDER)), down, load(c));
    }
};

template <class Between>
void products(TiledDigits, const char* a, size_t, const char* panel, int groups, int, Between between) {
    constexpr size_t TILE = 16 * 64;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    for (int group = 0; group < groups; group += 16, a += 3 * TILE, panel += 3 * TILE) {
        _tile_loadd(7, panel, 64);
        _tile_loadd(5, a, 64);
        _tile_dpbssd(0, 5, 7);
        _tile_loadd(6, a + TILE, 64);
        _tile_dpbssd(1, 6, 7);
        _tile_loadd(7, panel + TILE, 64);
        _tile_dpbssd(2, 6, 7);
        _tile_dpbssd(1, 5, 7);
        _tile_loadd(7, panel + 2 * TILE, 64);
        _tile_dpbssd(4, 5, 7);
        _tile_dpbssd(3, 6, 7);
        _tile_loadd(6, a + 2 * TILE, 64);
        _tile_loadd(7, panel, 64);
        _tile_dpbssd(2, 6, 7);
        _tile_loadd(7, panel + TILE, 64);
        _tile_dpbssd(3, 6, 7);
        between();
    }
}

template <>
void keep<TiledDigits>(int32_t* c, int width, int) {
    constexpr int ORDER = TiledDigits::BLOCK * TiledDigits::WIDTH;
    const size_t bytes = width * 4;
    _tile_stored(0, c, bytes);
    _tile_stored(1, c + ORDER, bytes);
    _tile_stored(2, c + 2 * ORDER, bytes);
    _tile_stored(3, c + 3 * ORDER, bytes);
    _tile_stored(4, c + 4 * ORDER, bytes);
}

#endif

}  // namespace
