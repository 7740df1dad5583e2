// What happens to values between matrix products: activations, normalisation, quantisation.
#pragma once

#include "kernel.h"
#include "units.hpp"

namespace {

using namespace secondpass;

inline Vec sigmoid(Vec x) {
    return all(1.0f) / (all(1.0f) + exp2<true>(minimum(all(126.0f), x * all(-LOG2_E))));
}

// x * normal distribution function, through erf as in Abramowitz and Stegun 7.1.26 (1.5e-7).
inline Vec gelu_exact(Vec x) {
    const Vec z = magnitude(x) * all(0.70710678118654752f);
    const Vec t = all(1.0f) / fma(z, all(0.3275911f), all(1.0f));
    Vec p = fma(all(1.061405429f), t, all(-1.453152027f));
    p = fma(p, t, all(1.421413741f));
    p = fma(p, t, all(-0.284496736f));
    p = fma(p, t, all(0.254829592f));
    const Vec erf = all(1.0f) - p * t * exp2<true>(z * z * all(-LOG2_E));
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

// Rows as a matrix unit reads them: for Int8 value = low + scale * byte, per row.
template <class Unit>
struct Rows {
    typename Unit::Element* values;
    int width;
    float* scale;
    float* low;
    typename Unit::Element* at(int row) const { return values + static_cast<size_t>(row) * width; }
    Rows from(int row) const { return {at(row), width, scale + row, low + row}; }
};

// Not a number or infinite anywhere in a row makes its scale, and with it all that follows, not a number.
template <class Unit, class Source>
void write_row(Rows<Unit> rows, int row, const typename Source::Element* x) {
    typename Unit::Element* out = rows.at(row);
    if constexpr (Unit::GROUP != 4) {
        for (int i = 0; i < rows.width; i += LANES) Unit::put(out + i, Source::get(x + i));
    } else {
        Vec high = all(-3e38f), low = all(3e38f), odd = zero();
        for (int i = 0; i < rows.width; i += LANES) {
            const Vec v = Source::get(x + i);
            high = maximum(high, v);
            low = minimum(low, v);
            odd = fma(v, zero(), odd);
        }
        const float least = smallest(low), range = largest(high) - least;
        const float scale = range > 1e-30f ? range / 255.0f : 1e-30f;
        rows.scale[row] = scale + sum(odd);
        rows.low[row] = least;
        const Vec inverse = all(1.0f / scale), shift = all(-least / scale);
        for (int i = 0; i < rows.width; i += LANES) store_bytes(out + i, fma(Source::get(x + i), inverse, shift));
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

// y[row][column] = a[row] @ matrix + bias, handed to `use(row, column, vector)` for the columns of some panels.
template <class Unit, class Use>
void linear(Rows<Unit> a, int rows, const Matrix& matrix, int first_column, int last_column, Use use) {
    alignas(64) typename Unit::Sum c[Unit::BLOCK * PANEL];
    const size_t stride = a.width * sizeof(typename Unit::Element);
    const size_t panel_bytes = static_cast<size_t>(matrix.groups) * PANEL * 4;
    for (int column = first_column; column < last_column; column += PANEL) {
        const char* panel = static_cast<const char*>(matrix.panels) + column / PANEL * panel_bytes;
        for (int begin = 0; begin < rows; begin += Unit::BLOCK) {
            const int count = smaller(Unit::BLOCK, rows - begin);
            multiply<Unit>(reinterpret_cast<const char*>(a.at(begin)), stride, panel, matrix.groups, count, c, PANEL);
            for (int row = 0; row < count; row++)
                for (int half = 0; half < PANEL; half += LANES) {
                    const int place = column + half;
                    Vec x = load(c + row * PANEL + half);
                    if constexpr (Unit::GROUP == 4) {
                        x = x * (all(a.scale[begin + row]) * load(matrix.scale + place));
                        x = fma(all(a.low[begin + row]), load(matrix.sums + place), x);
                    }
                    use(begin + row, place, x + load(matrix.bias + place));
                }
        }
    }
}

}  // namespace
