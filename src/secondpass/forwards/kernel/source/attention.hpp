// Attention of one head over one sequence, in a matrix unit: scores, softmax and mixture of values.
#pragma once

#include "pointwise.hpp"

namespace {

// Room for one head: keys and values as panels, scores of a block of queries, what is added to them by a key's place in
// the sequence and by its distance from the query.
struct HeadScratch {
    char* keys;
    char* values;
    float* scores;
    float* mask;
    float* band;
    int16_t* words;  // queries, keys and values, where words are multiplied
};

constexpr int KEY_STEP = 32;       // keys are padded to whole panels and whole tiles
constexpr int SCORE_PADDING = 16;  // keeps rows of scores from falling on the same cache lines
constexpr int BAND_EDGE = 64;      // as far as a block of queries may look beyond a window, rounded up to whole steps
constexpr float HIDDEN = -1e30f;   // added to scores of keys that are not seen

#if defined(__AVX512F__)

// 16 rows of 16 dwords, transposed; rows beyond `rows` are 0.
inline void transpose(const char* from, size_t stride, int rows, char* to, size_t to_stride) {
    __m512i x[16], y[16];
    for (int i = 0; i < 16; i++) x[i] = i < rows ? _mm512_loadu_si512(from + i * stride) : _mm512_setzero_si512();
    for (int i = 0; i < 16; i += 2) {
        y[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
        y[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; j++) {
            x[i + 2 * j] = _mm512_unpacklo_epi64(y[i + j], y[i + j + 2]);
            x[i + 2 * j + 1] = _mm512_unpackhi_epi64(y[i + j], y[i + j + 2]);
        }
    for (int j = 0; j < 4; j++) {
        y[j] = _mm512_shuffle_i32x4(x[j], x[j + 4], 0x88);
        y[j + 4] = _mm512_shuffle_i32x4(x[j], x[j + 4], 0xdd);
        y[j + 8] = _mm512_shuffle_i32x4(x[j + 8], x[j + 12], 0x88);
        y[j + 12] = _mm512_shuffle_i32x4(x[j + 8], x[j + 12], 0xdd);
    }
    for (int j = 0; j < 8; j++) {
        _mm512_storeu_si512(to + j * to_stride, _mm512_shuffle_i32x4(y[j], y[j + 8], 0x88));
        _mm512_storeu_si512(to + (j + 8) * to_stride, _mm512_shuffle_i32x4(y[j], y[j + 8], 0xdd));
    }
}

#else

inline void transpose(const char* from, size_t stride, int rows, char* to, size_t to_stride) {
    for (int row = 0; row < LANES; row++)
        for (int column = 0; column < LANES; column++) {
            int32_t dword = 0;
            if (row < rows) memcpy(&dword, from + row * stride + column * 4, 4);
            memcpy(to + column * to_stride + row * 4, &dword, 4);
        }
}

#endif

// keys [length] of `dwords` each -> panels [padded / PANEL][dwords][PANEL]
inline void pack_keys(const char* keys, size_t stride, int length, int padded, int dwords, char* panels) {
    for (int key = 0; key < padded; key += LANES) {
        char* panel = panels + (static_cast<size_t>(key / PANEL) * dwords * PANEL + key % PANEL) * 4;
        for (int dword = 0; dword < dwords; dword += LANES)
            transpose(keys + key * stride + dword * 4, stride, length - key, panel + dword * PANEL * 4, PANEL * 4);
    }
}

// values [length][size] -> panels [size / PANEL][padded / Unit::GROUP][PANEL]
template <class Unit>
void pack_values(const typename Unit::Element* values, size_t stride, int length, int padded, int size, char* panels) {
    for (int column = 0; column < size; column += LANES) {
        char* panel = panels + (static_cast<size_t>(column / PANEL) * (padded / Unit::GROUP) * PANEL + column % PANEL) * 4;
        for (int key = 0; key < padded; key += Unit::GROUP, panel += PANEL * 4) {
            const typename Unit::Element* row = values + key * stride + column;
            Vec x = key < length ? Unit::get(row) : zero();
            if constexpr (Unit::GROUP == 2) x = Unit::pair(x, key + 1 < length ? Unit::get(row + stride) : zero());
            store(reinterpret_cast<float*>(panel), x);
        }
    }
}

// Of words of probabilities and of values: the sum of a row is not larger, and no probability is, and values are cut so that
// the products' sum has room in 32 bits, what is rounded up for 40,000 keys with it.
constexpr float MOST_IN_ALL = 1e6f, MOST_OF_ONE = 32767.0f, MOST_VALUE = 2047.0f;

// scores [padded], in place, to exp(score - largest) as elements of the unit; returns the sum's inverse. Keys outside of
// `seen` get 0; so do those that `mask` and `band`, which may be null, hide.
template <class Unit>
float exponentials(float* scores, const float* mask, const float* band, Span seen, int padded, float scale) {
    Vec high = all(-3e38f);
    for (int key = seen.begin; key < seen.end; key += LANES) {
        const Vec score = Unit::value(reinterpret_cast<const typename Unit::Sum*>(scores) + key);
        Vec x = fma(score, all(scale), load(mask + key));
        if (band) x = x + load(band + key);
        store(scores + key, x);
        high = maximum(high, x);
    }
    const Vec most = all(largest(high));
    Vec total = zero();
    using Kept = typename Chosen<Unit::SCALED, Float32, Unit>::Type;
    typename Kept::Element* out = reinterpret_cast<typename Kept::Element*>(scores);
    for (int key = 0; key < seen.begin; key += LANES) Kept::put(out + key, zero());
    for (int key = seen.begin; key < seen.end; key += LANES) {
        const Vec x = exp2_or_zero<Unit::EXACT>(load(scores + key) - most);
        total = total + x;
        Kept::put(out + key, x);
    }
    for (int key = seen.end; key < padded; key += LANES) Kept::put(out + key, zero());
    if constexpr (!Unit::SCALED) return 1.0f / sum(total);
    const float all_of_them = sum(total), share = MOST_IN_ALL / all_of_them;
    const float times = share < MOST_OF_ONE ? share : MOST_OF_ONE;
    for (int key = 0; key < padded; key += 2 * LANES)
        store_words(reinterpret_cast<int16_t*>(scores) + key, whole(load(scores + key) * all(times)),
                    whole(load(scores + key + LANES) * all(times)));
    return 1.0f / (all_of_them * times);
}

// Who asks in a sequence of `length`: `count` tokens from `first` on; each sees `window` to either side, all if negative.
struct Asking {
    int first, count, length, window;
    bool windowed() const { return window >= 0 && window < length - 1; }
    // Keys that some of these see, in whole steps; what is behind the sequence is masked.
    int low(int from) const { return windowed() ? larger(0, from - window) / KEY_STEP * KEY_STEP : 0; }
    int high(int to) const { return rounded_up(windowed() ? smaller(length, to + window) : length, KEY_STEP); }
};

// Rows of `query`, `key` and `value` are the sequence's, `stride` elements apart; `out` has one for each who asks. A step of
// `value` is so large.
template <class Unit, class Side>
void attend(const typename Unit::Element* query, const typename Unit::Element* key,
            const typename Unit::Element* value, int stride, const Asking& asking, int size, float scale,
            const HeadScratch& scratch, float value_step, typename Side::Element* out, int out_stride) {
    constexpr int BYTES = sizeof(typename Unit::Element);
    const int start = asking.low(asking.first), length = asking.length - start;
    const int padded = asking.high(asking.first + asking.count) - start, dwords = size / Unit::GROUP;
    const int width = padded + SCORE_PADDING, window = asking.window;
    const size_t skipped = static_cast<size_t>(start) * stride;
    pack_keys(reinterpret_cast<const char*>(key + skipped), stride * BYTES, length, padded, dwords, scratch.keys);
    pack_values<Unit>(value + skipped, stride, length, padded, size, scratch.values);
    memset(scratch.mask, 0, sizeof(float) * smaller(length, padded));
    for (int i = length; i < padded; i++) scratch.mask[i] = HIDDEN;
    if (asking.windowed())
        for (int i = 0; i <= 2 * (window + BAND_EDGE); i++)
            scratch.band[i] = i < BAND_EDGE || i > BAND_EDGE + 2 * window ? HIDDEN : 0.0f;
    for (int begin = 0; begin < asking.count; begin += Unit::BLOCK) {
        const int rows = smaller(Unit::BLOCK, asking.count - begin), from = asking.first + begin;
        const int low = asking.low(from) - start, keys = asking.high(from + rows) - start - low;
        const char* asked = reinterpret_cast<const char*>(query + static_cast<size_t>(from) * stride);
        for (int panel = 0; panel < keys; panel += PANEL)
            multiply<Unit>(asked, stride * BYTES, scratch.keys + static_cast<size_t>(low + panel) * dwords * 4, dwords,
                           rows, reinterpret_cast<typename Unit::Sum*>(scratch.scores) + panel, width);
        float inverse[Unit::BLOCK];
        for (int row = 0; row < rows; row++) {
            const int place = from + row - start - low;
            const Span seen{larger(0, place - window) / LANES * LANES, smaller(keys, rounded_up(place + window + 1, LANES))};
            const bool windowed = asking.windowed();
            inverse[row] = exponentials<Unit>(scratch.scores + row * width, scratch.mask + low,
                                              windowed ? scratch.band + BAND_EDGE + window - place : nullptr,
                                              windowed ? seen : Span{0, keys}, keys, scale * LOG2_E);
        }
        for (int column = 0; column < size; column += PANEL) {
            alignas(64) typename Unit::Sum mixed[Unit::BLOCK * PANEL];
            const char* panel = scratch.values + (static_cast<size_t>(column) * padded + low * PANEL) / Unit::GROUP * 4;
            multiply<Unit>(reinterpret_cast<const char*>(scratch.scores), width * 4, panel, keys / Unit::GROUP, rows,
                           mixed, PANEL);
            for (int row = 0; row < rows; row++)
                for (int half = 0; half < PANEL; half += LANES)
                    Side::put(out + static_cast<size_t>(begin + row) * out_stride + column + half,
                              Unit::value(mixed + row * PANEL + half) * all(inverse[row] * value_step));
        }
    }
}

// The same in words: those of who asks, of the keys that they see, and of their values share a step each.
template <class Side>
void attend_in_words(const float* query, const float* key, const float* value, int stride, Asking asking, int size,
                     float scale, const HeadScratch& scratch, typename Side::Element* out, int out_stride) {
    using Words = typename Side::Products;
    const int start = asking.low(asking.first), end = smaller(asking.length, asking.high(asking.first + asking.count));
    const size_t from = static_cast<size_t>(start) * stride, keys = static_cast<size_t>(end) * size;
    int16_t *const queries = scratch.words, *const key_words = queries + keys, *const value_words = key_words + keys;
    // a score is a sum of `size` products
    const float root = __builtin_sqrtf(2.1e9f / size), most = root < Words::MOST ? root : Words::MOST;
    const size_t asked = static_cast<size_t>(asking.first), skipped = static_cast<size_t>(start) * size;
    const float steps = write_words<Side>(queries + asked * size, query + asked * stride, stride, asking.count, size, most) *
                        write_words<Side>(key_words + skipped, key + from, stride, end - start, size, most);
    const float step = write_words<Side>(value_words + skipped, value + from, stride, end - start, size, MOST_VALUE);
    attend<Words, Side>(queries, key_words, value_words, size, asking, size, scale * steps, scratch, step, out, out_stride);
}

}  // namespace
