// What happens to values between matrix products: activations, normalisation, quantisation.
#pragma once

#include "kernel.h"
#include "units.hpp"

namespace {

using namespace secondpass;

inline Vec sigmoid(Vec x) {
    return all(1.0f) / (all(1.0f) + exp2<true>(minimum(all(126.0f), x * all(-LOG2_E))));
}

// x * normal distribution function to the last bits of float32: 1 - erf(z) = t p(t) exp(-z^2), t = 1 / (1 + 0.3 z), the
// form of Abramowitz and Stegun 7.1.26 with p fitted anew to 1e-10.
inline Vec gelu_exact(Vec x) {
    const Vec z = magnitude(x) * all(0.70710678118654752f);
    const Vec t = inverse(fma(minimum(all(1e9f), z), all(0.3f), all(1.0f)));
    Vec p = fma(all(-0.31742438673973083f), t, all(1.6587427854537964f));
    p = fma(p, t, all(-2.796436309814453f));
    p = fma(p, t, all(3.115931987762451f));
    p = fma(p, t, all(-1.7526838779449463f));
    p = fma(p, t, all(0.9001771211624146f));
    p = fma(p, t, all(0.006928693503141403f));
    p = fma(p, t, all(0.18476395308971405f));
    const Vec erf = fma(p * t, -exp2<true>(z * z * all(-LOG2_E)), all(1.0f));
    return all(0.5f) * fma(magnitude(x), erf, x);
}

// The same to 5e-5 for rounded arithmetic: an odd polynomial on [-4, 4], beyond which the function is 0 or 1.
inline Vec gelu_short(Vec x) {
    const Vec z = minimum(all(4.0f), maximum(all(-4.0f), x)), s = z * z;
    Vec p = fma(all(-1.3222811734436846e-09f), s, all(1.0568952291123423e-07f));
    p = fma(p, s, all(-3.7000734209868824e-06f));
    p = fma(p, s, all(7.549529254902154e-05f));
    p = fma(p, s, all(-0.0010117606725543737f));
    p = fma(p, s, all(0.009528846479952335f));
    p = fma(p, s, all(-0.06593836098909378f));
    p = fma(p, s, all(0.39871183037757874f));
    return x * fma(z, p, all(0.5f));
}

template <bool Exact>
inline Vec activated(int kind, Vec x) {
    switch (kind) {
        case GELU: return Exact ? gelu_exact(x) : gelu_short(x);
        case GELU_TANH: return x * sigmoid(x * fma(x * x, all(0.0713548162726f), all(1.59576912160573f)));
        case RELU: return maximum(zero(), x);
        case SILU: return x * sigmoid(x);
        case TANH: return fma(all(2.0f), sigmoid(x + x), all(-1.0f));
        default: return x;
    }
}

// Rows as a matrix unit reads them: of a scaled unit a value is low + scale * number, for each row and each segment of
// its depth; words and digits have no low.
template <class Unit>
struct Rows {
    typename Unit::Element* values;
    int width;
    float* scale;
    float* low;
    int segments;
    typename Unit::Element* at(int row) const { return values + static_cast<size_t>(row) * width; }
    Rows from(int row) const { return {at(row), width, scale + row * segments, low + row * segments, segments}; }
    // What is behind the first values of each row, whole segments of them.
    Rows behind(int first, int segment) const {
        return {values + first, width, scale + first / segment, low + first / segment, segments};
    }
};

// One segment of a row of bytes, by four registers whose largest and smallest values do not wait for each other. Where
// `Less`, values become less by `change` first.
template <class Source, bool Less>
void write_bytes(uint8_t* out, float* scale_out, float* low_out, const typename Source::Element* x, const float* change,
                 int count) {
    constexpr int STEP = 4 * LANES;
    // of the four at i, the last that is there in place of those that are not
    const auto get = [=](int i, int part) {
        const int place = smaller(i + part * LANES, count - LANES);
        return Less ? Source::get(x + place) - load(change + place) : Source::get(x + place);
    };
    Vec high[4], low[4];
    for (int part = 0; part < 4; part++) high[part] = low[part] = get(0, part);
    for (int i = STEP; i < count; i += STEP)
        for (int part = 0; part < 4; part++) {
            const Vec v = get(i, part);
            high[part] = maximum(high[part], v);
            low[part] = minimum(low[part], v);
        }
    const float least = smallest(minimum(minimum(low[0], low[1]), minimum(low[2], low[3])));
    const float range = largest(maximum(maximum(high[0], high[1]), maximum(high[2], high[3]))) - least;
    const float times = range > 1e-30f ? BYTE_STEPS / range : 0.0f;
    const Vec inverse = all(times), shift = all(LEAST_BYTE - least * times);
    Ints lowest = whole(zero());  // below all others where there is what is no number
    for (int i = 0; i < count; i += STEP) {
        Ints four[4];
        for (int part = 0; part < 4; part++) {
            four[part] = whole(fma(get(i, part), inverse, shift));
            lowest = minimum(lowest, four[part]);
        }
        if (i + STEP <= count) {
            store_bytes(out + i, four);
        } else {
            uint8_t last[STEP];
            store_bytes(last, four);
            memcpy(out + i, last, count - i);
        }
    }
    const float step = range / BYTE_STEPS;
    *scale_out = has_no_number(lowest) ? __builtin_nanf("") : step;
    *low_out = least - LEAST_BYTE * step;
}

// Rows of words from -most to most, end to end, that share a step, which is returned; it is not a number where one of them
// is none. `width` is a multiple of 32.
template <class Source>
float write_words(int16_t* out, const typename Source::Element* x, int stride, int rows, int width, float most) {
    Vec high = zero();
    for (int row = 0; row < rows; row++)
        for (int i = 0; i < width; i += LANES)
            high = maximum(high, magnitude(Source::get(x + static_cast<size_t>(row) * stride + i)));
    const float largest_one = largest(high), times = largest_one > 1e-30f ? most / largest_one : 0.0f;
    Ints lowest = whole(zero());
    for (int row = 0; row < rows; row++, out += width)
        for (int i = 0; i < width; i += 2 * LANES) {
            const typename Source::Element* from = x + static_cast<size_t>(row) * stride + i;
            const Ints first = whole(Source::get(from) * all(times)), second = whole(Source::get(from + LANES) * all(times));
            lowest = minimum(lowest, minimum(first, second));
            store_words(out + i, first, second);
        }
    return has_no_number(lowest) ? __builtin_nanf("") : largest_one / most;
}

// One segment of a row of digits, in its tiles.
template <class Source>
void write_digits(char* out, float* scale_out, const typename Source::Element* x, const float* smoothing, int count);

#if defined(__AMX_TILE__)

template <class Source>
void write_digits(char* out, float* scale_out, const typename Source::Element* x, const float* smoothing, int count) {
    constexpr float MOST = 127.4f;  // so that the first digit fits
    Vec high = zero(), odd = zero();
    for (int i = 0; i < count; i += LANES) {
        const Vec v = Source::get(x + i) * load(smoothing + i);
        high = maximum(high, magnitude(v));
        odd = fma(v, zero(), odd);
    }
    const float most = largest(high);
    const float scale = most > 1e-30f ? most / MOST : 1e-30f;
    *scale_out = scale + sum(odd);
    const Vec inverse = all(65536.0f / scale);
    const __m512i middle = _mm512_set1_epi32(0x808080);
    // bytes of a dword to places apart, the highest digit first: in each 128 bits, then for all of them
    const __m512i apart = _mm512_broadcast_i32x4(_mm_setr_epi8(2, 6, 10, 14, 1, 5, 9, 13, 0, 4, 8, 12, 3, 7, 11, 15));
    const __m512i together = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    for (int i = 0; i < count; i += LANES) {
        const __m512i whole = _mm512_cvtps_epi32(Source::get(x + i) * load(smoothing + i) * inverse);
        const __m512i digits = _mm512_xor_si512(_mm512_add_epi32(whole, middle), middle);
        char* place = out + i / 64 * 3 * 1024 + i % 64;
        const __m512i planes = _mm512_permutexvar_epi32(together, _mm512_shuffle_epi8(digits, apart));
        __m128i* places = reinterpret_cast<__m128i*>(place);
        _mm_storeu_si128(places, _mm512_castsi512_si128(planes));
        _mm_storeu_si128(places + 64, _mm512_extracti32x4_epi32(planes, 1));
        _mm_storeu_si128(places + 128, _mm512_extracti32x4_epi32(planes, 2));
    }
}

#endif

// x [count] into a row of at least as many; what is behind becomes 0. Not a number or infinite anywhere in a segment
// makes its scale, and with it all that follows, not a number.
template <class Unit, class Source>
void write_row(Rows<Unit> rows, int row, const typename Source::Element* x, int count, const float* change,
               int segment) {
    typename Unit::Element* out = rows.at(row);
    if constexpr (!Unit::SCALED) {
        for (int i = 0; i < count; i += LANES) Unit::put(out + i, Source::get(x + i));
    } else {
        for (int begin = 0, place = row * rows.segments; begin < count; begin += segment, place++) {
            const int size = smaller(segment, count - begin);
            if constexpr (Unit::GROUP == 2)
                rows.scale[place] = write_words<Source>(out + begin, x + begin, 0, 1, size, Unit::MOST);
            else if constexpr (Unit::PLANES > 1)
                write_digits<Source>(reinterpret_cast<char*>(rows.at(row / 16 * 16) + begin * 16) + row % 16 * 64,
                                     rows.scale + place, x + begin, change + begin, size);
            else if (change)
                write_bytes<Source, true>(out + begin, rows.scale + place, rows.low + place, x + begin, change + begin,
                                          size);
            else
                write_bytes<Source, false>(out + begin, rows.scale + place, rows.low + place, x + begin, nullptr, size);
        }
    }
}

// x [width] normalised into `out`, which may be x; the padding behind norm.count stays 0.
inline void normalise(const Norm& norm, const float* x, float* out, int width) {
    Vec total = zero();
    for (int i = 0; i < width; i += LANES) total = total + load(x + i);
    const float mean = sum(total) / norm.count;
    Vec squares = zero();
    for (int i = 0; i < width; i += LANES) {
        const Vec d = load(x + i) - all(mean);
        squares = fma(d, d, squares);
    }
    const float variance = (sum(squares) - (width - norm.count) * mean * mean) / norm.count;
    const float inverse = 1.0f / __builtin_sqrtf((variance > 0 ? variance : variance < 0 ? 0.0f : variance) + norm.eps);
    for (int i = 0; i < width; i += LANES) {
        const Vec d = (load(x + i) - all(mean)) * all(inverse);
        store(out + i, fma(d, load(norm.weight + i), load(norm.bias + i)));
    }
}

// x [width] to a length of 1 in place.
inline void to_unit_length(float* x, int width) {
    Vec squares = zero();
    for (int i = 0; i < width; i += LANES) squares = fma(load(x + i), load(x + i), squares);
    const float length = __builtin_sqrtf(sum(squares));
    const Vec divisor = all(length < 1e-12f ? 1e-12f : length);
    for (int i = 0; i < width; i += LANES) store(x + i, load(x + i) / divisor);
}

constexpr int MOST_ROWS = 384;  // that are multiplied at a time: their values stay in the second cache

// y[row][column] = a[row] @ matrix over a part of its depth, `a` beginning there; the bias is added where the part is
// the first one. `use(column)(row, vector)` gets the values, or where `Pairs` `use(column)(row, left, right)` those of
// neighbouring registers. A block is used while the next one is multiplied.
template <class Unit, bool Pairs, class Use>
class Linear {
    using Sum = typename Unit::Sum;
    struct Block {
        int column, row, count, begin, end;  // depth from begin to end
    };
    static constexpr int WIDTH = Unit::WIDTH, SIZE = Unit::BLOCK * WIDTH;

    const Rows<Unit> a;
    const Matrix& matrix;
    const Span depth;
    const int segment;
    Use use;
    alignas(64) Sum sums[Unit::TILED ? 1 : 2][SIZE * Unit::ORDERS];
    // Of all rows, the sums over the depth so far, where it goes by segments.
    alignas(64) float partial[Unit::SCALED ? MOST_ROWS * WIDTH : 1];
    // Left ones, where a block is but one register wide: those of all rows come before the first right one.
    static constexpr bool KEEPS = Pairs && WIDTH == LANES;
    alignas(64) float left[KEEPS ? MOST_ROWS * LANES : 1];

    // Multiplies a block into c, or while its products stay in tiles uses the one before it, which was there.
    void multiply_block(const Block& block, const Block& before, Sum* c) {
        constexpr int COLUMNS = Unit::COLUMNS;
        const size_t element = sizeof(typename Unit::Element), panel_group = COLUMNS * 4 * Unit::PLANES;
        // digits of a block's rows lie together
        const int skipped = (block.begin - depth.begin) * (Unit::PLANES > 1 ? Unit::BLOCK : 1);
        const char* rows = reinterpret_cast<const char*>(a.at(block.row)) + skipped * element;
        const size_t group = static_cast<size_t>(block.column / COLUMNS) * matrix.groups + block.begin / Unit::GROUP;
        const char* panel = static_cast<const char*>(matrix.panels) + group * panel_group + block.column % COLUMNS * 4;
        const int groups = (block.end - block.begin) / Unit::GROUP;
        if constexpr (Unit::TILED) {
            const int steps = groups / 16, each = (before.count + steps - 1) / steps;
            int used = 0;
            products(Unit{}, rows, a.width * element, panel, groups, block.count, [&] {
                const int until = smaller(before.count, used + each);
                if (used < until) use_rows(before, c, used, until);
                used = until;
            });
            if (used < before.count) use_rows(before, c, used, before.count);
            keep<Unit>(c, WIDTH, block.count);
        } else {
            multiply<Unit>(rows, a.width * element, panel, groups, block.count, c, WIDTH);
        }
    }

    // What one column of registers is multiplied with and added to.
    struct Factors {
        Vec bias, scale, low_sums;
    };

    Factors factors(int part, int column) const {
        Factors made{depth.begin ? zero() : load(matrix.bias + column), zero(), zero()};
        const size_t place = static_cast<size_t>(part) * matrix.columns + column;
        if constexpr (Unit::SCALED) made.scale = load(matrix.scale + place);
        if constexpr (Unit::OFFSET) made.low_sums = load(matrix.sums + place);
        return made;
    }

    // A block's products as floats. Everything is a copy: what is written may be what `this` points to, and would be read
    // again for each row.
    struct Values {
        const Sum* c;
        const float *scale, *low;  // of the block's first row; those of the next are `segments` behind
        int segments;
        const float* before;  // sums over the depth before, if there is any

        // No bias yet.
        Vec at(int row, int half, const Factors& by) const {
            Vec x = Unit::value(c + row * WIDTH + half);
            if constexpr (Unit::SCALED) {
                x = x * (all(scale[row * segments]) * by.scale);
                if constexpr (Unit::OFFSET) x = fma(all(low[row * segments]), by.low_sums, x);
                if (before) x = x + load(before + row * WIDTH + half);
            }
            return x;
        }
    };

    Values values(const Block& block, const Sum* c) const {
        if constexpr (!Unit::SCALED) return {c, nullptr, nullptr, 0, nullptr};
        const int place = block.row * a.segments + (block.begin - depth.begin) / segment;
        const float* before = block.begin == depth.begin ? nullptr : partial + block.row * WIDTH;
        return {c, a.scale + place, a.low + place, a.segments, before};
    }

    // Rows from `begin` to `end` of a block.
    void use_rows(const Block& block, const Sum* c, int begin, int end) {
        const int part = block.begin / segment, first = block.row;
        const bool last = block.end == depth.end;
        const Values from = values(block, c);
        if constexpr (Pairs && !KEEPS) {
            if (last) {
                const Factors left = factors(part, block.column), right = factors(part, block.column + LANES);
                auto used = use(block.column);
                for (int row = begin; row < end; row++)
                    used(first + row, from.at(row, 0, left) + left.bias, from.at(row, LANES, right) + right.bias);
                return;
            }
        }
        for (int half = 0; half < WIDTH; half += LANES) {
            const int column = block.column + half;
            const Factors by = factors(part, column);
            if (!last) {
                float* to = partial + first * WIDTH + half;
                for (int row = begin; row < end; row++) store(to + row * WIDTH, from.at(row, half, by));
            } else if constexpr (!Pairs) {
                auto used = use(column);
                for (int row = begin; row < end; row++) used(first + row, from.at(row, half, by) + by.bias);
            } else if constexpr (KEEPS) {
                float* kept = left + first * LANES;
                if (column % PANEL == 0) {
                    for (int row = begin; row < end; row++) store(kept + row * LANES, from.at(row, half, by) + by.bias);
                } else {
                    auto used = use(column - LANES);
                    for (int row = begin; row < end; row++)
                        used(first + row, load(kept + row * LANES), from.at(row, half, by) + by.bias);
                }
            }
        }
    }

   public:
    Linear(Rows<Unit> a, const Matrix& matrix, Span depth, int segment, Use use)
        : a(a), matrix(matrix), depth(depth), segment(segment), use(use) {}

    void run(int rows, Span columns) {
        const int step = Unit::SCALED ? segment : depth.size();
        Block waiting{};
        int turn = 0;
        const auto next = [&](int column, int row, int begin) {
            const Block block{column, row, smaller(Unit::BLOCK, rows - row), begin, smaller(depth.end, begin + step)};
            multiply_block(block, waiting, sums[turn]);
            if constexpr (!Unit::TILED) {
                use_rows(waiting, sums[turn ^ 1], 0, waiting.count);
                turn ^= 1;
            }
            waiting = block;
        };
        // tiles read a panel's segment for all rows before the next; registers read it from wherever it is in time
        for (int column = columns.begin; column < columns.end; column += WIDTH) {
            if constexpr (Unit::TILED) {
                for (int begin = depth.begin; begin < depth.end; begin += step)
                    for (int row = 0; row < rows; row += Unit::BLOCK) next(column, row, begin);
            } else {
                for (int row = 0; row < rows; row += Unit::BLOCK)
                    for (int begin = depth.begin; begin < depth.end; begin += step) next(column, row, begin);
            }
        }
        use_rows(waiting, sums[Unit::TILED ? turn : turn ^ 1], 0, waiting.count);
    }
};

}  // namespace
