// The whole forward of one chunk of sequences, and of the head for first tokens.
//
// `Main` multiplies with weights of the model's precision, `Side` computes attention and holds what lies between matrix
// products, `Out` multiplies what attention found. Where several threads share a chunk, each takes row blocks and heads.
#pragma once

#include "attention.hpp"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace {

// Hands out aligned pieces of one block of memory; with a null block it only counts.
struct Pieces {
    char* memory;
    size_t used = 0;
    template <class T>
    T* take(size_t count) {
        T* piece = reinterpret_cast<T*>(reinterpret_cast<uintptr_t>(memory) + used);
        used += (count * sizeof(T) + 63) / 64 * 64;
#if defined(__SANITIZE_ADDRESS__)
        // what lies between pieces may not be touched; the memory may be that of an earlier call
        used += 64;
        if (memory) {
            ASAN_UNPOISON_MEMORY_REGION(piece, count * sizeof(T));
            ASAN_POISON_MEMORY_REGION(piece + count, memory + used - reinterpret_cast<char*>(piece + count));
        }
#endif
        return piece;
    }
    template <class Unit>
    Rows<Unit> rows(int count, int width, int segment) {
        const int all_rows = rounded_up(count, 32), segments = rounded_up(width, segment) / segment;
        typename Unit::Element* values = take<typename Unit::Element>(static_cast<size_t>(all_rows + 32) * width);
        float* scale = take<float>(Unit::SCALED ? all_rows * segments : 0);
        return {values, width, scale, take<float>(Unit::SCALED ? all_rows * segments : 0), segments};
    }
};

template <class Main, class Side, class Out>
class Encoder {
    using Value = typename Side::Element;
    const Model& model;
    const Call& call;
    Team team;
    // of the chunk
    Rows<Float32> x;
    Rows<Side> qkv, context;
    // of this thread
    int32_t* places;          // of the chunk's tokens in their sequences
    Rows<Float32> sums, read;  // `read` and `sums` by turns in the readout
    Rows<Side> inner;          // a segment of the feed-forward's
    Rows<Main> operand, inner_operand;  // what is multiplied, where it is not taken as it lies
    HeadScratch head;

    static constexpr bool WHOLE = Main::SCALED && !Main::TILED;  // the feed-forward's width as one depth

    int attention_width() const { return model.heads * model.head_size; }

    void lay_out(Pieces& shared, Pieces& own) {
        const int capacity = larger(call.capacity, MOST_ROWS), segment = model.segment;
        const int widest = larger(rounded_up(attention_width(), 64), larger(model.hidden, segment));
        x = shared.rows<Float32>(capacity, model.hidden, segment);
        qkv = shared.rows<Side>(capacity, 3 * attention_width(), segment);
        context = shared.rows<Side>(capacity, attention_width(), segment);
        const int keys = rounded_up(capacity, KEY_STEP);
        places = own.take<int32_t>(capacity);
        sums = own.rows<Float32>(MOST_ROWS, larger(larger(model.hidden, model.embedding), model.widest), segment);
        sums.width = model.hidden;
        read = own.rows<Float32>(MOST_ROWS, model.widest, segment);
        inner = own.rows<Side>(MOST_ROWS, segment, segment);
        // attention's output may be wider values
        constexpr int TIMES = Out::SCALED && sizeof(typename Out::Element) > sizeof(typename Main::Element) ? 2 : 1;
        operand = own.rows<Main>(MOST_ROWS, TIMES * widest, segment);
        inner_operand = own.rows<Main>(MOST_ROWS, WHOLE ? model.inner : segment, segment);
        head.keys = own.take<char>(static_cast<size_t>(keys) * model.head_size * sizeof(Value));
        head.values = own.take<char>(static_cast<size_t>(keys) * model.head_size * sizeof(Value));
        head.scores = own.take<float>(static_cast<size_t>(32) * (keys + SCORE_PADDING));
        head.mask = own.take<float>(keys);
        head.band = own.take<float>(2 * (keys + BAND_EDGE) + 1);
        head.words = own.take<int16_t>(Side::Products::SCALED ? static_cast<size_t>(3) * keys * model.head_size : 0);
    }

    // The first `rows` of `from` as `Unit` multiplies them with a part of the matrix's depth: themselves or in `room`.
    template <class Unit, class Source>
    Rows<Unit> ready(Rows<Source> from, int rows, const Matrix& matrix, Span depth, const Rows<Main>& room) {
        if constexpr (!Unit::SCALED && sizeof(typename Unit::Element) == sizeof(typename Source::Element)) {
            return {from.values, from.width, nullptr, nullptr, 0};
        } else {
            const int width = rounded_up(depth.size(), 64);
            const int segments = rounded_up(width, model.segment) / model.segment;
            auto* const values = reinterpret_cast<typename Unit::Element*>(room.values);
            const Rows<Unit> to{values, width, room.scale, room.low, segments};
            const float* change = Unit::SCALED && matrix.change ? matrix.change + depth.begin : nullptr;
            if (Unit::SCALED && width > from.width) {
                const size_t size = static_cast<size_t>(rounded_up(rows, 16)) * width;
                memset(static_cast<void*>(values), 0, size * sizeof(typename Unit::Element));
            }
            for (int row = 0; row < rows; row++)
                write_row<Unit, Source>(to, row, from.at(row), smaller(from.width, width), change, model.segment);
            return to;
        }
    }

    template <bool Pairs = false, class Unit, class Use>
    void linear(Rows<Unit> a, int rows, const Matrix& matrix, Span columns, Span depth, Use use) {
        Linear<Unit, Pairs, Use>(a, matrix, depth, model.segment, use).run(rows, columns);
    }

    // To be called with a column: stores values, or adds them to what is there.
    static auto stored(Rows<Float32> to) {
        return [=](int column) { return [=](int row, Vec v) { store(to.at(row) + column, v); }; };
    }
    static auto added(Rows<Float32> to, Rows<Float32> from) {
        return [=](int column) {
            return [=](int row, Vec v) { store(to.at(row) + column, v + load(from.at(row) + column)); };
        };
    }

    // Rows in `sums`, or as they are where there is no norm.
    Rows<Float32> normalised(const Norm& norm, Rows<Float32> rows, int count) {
        if (!norm.weight) return rows;
        for (int row = 0; row < count; row++) normalise(norm, rows.at(row), sums.at(row), model.hidden);
        return sums;
    }

    static Span whole(const Matrix& matrix, int group) { return {0, matrix.groups * group}; }

    // Calls work(first, count) for this thread's blocks of `rows` rows: whole tiles, or as even ones as registers multiply
    // well.
    template <class Work>
    void for_blocks(int rows, Work work) {
        const int parts = larger(team.size, (rows + MOST_ROWS - 1) / MOST_ROWS);
        const int step = smaller(MOST_ROWS, rounded_up((rows + parts - 1) / parts, Main::TILED ? 16 : 4));
        for (int first = team.rank * step; first < rows; first += team.size * step)
            work(first, smaller(step, rows - first));
    }

    void embed(int token, int position, float* out) {
        const int width = model.embedding;
        const float* word = model.words + static_cast<size_t>(call.ids[token]) * width;
        const float* place = model.positions ? model.positions + static_cast<size_t>(position) * width : nullptr;
        const float* type = model.types ? model.types + static_cast<size_t>(call.types[token]) * width : nullptr;
        for (int i = 0; i < width; i += LANES) {
            const Vec both = place ? load(word + i) + load(place + i) : load(word + i);
            store(out + i, type ? both + load(type + i) : both);
        }
        normalise(model.embedding_norm, out, out, width);
    }

    void find_places(int first_sequence, int last_sequence) {
        const int begin = call.starts[first_sequence];
        for (int sequence = first_sequence; sequence < last_sequence; sequence++)
            for (int token = call.starts[sequence]; token < call.starts[sequence + 1]; token++)
                places[token - begin] = token - call.starts[sequence];
    }

    void embed_block(int begin, int first, int count) {
        Rows<Float32> narrow = sums;
        narrow.width = model.embedding;
        for (int row = 0; row < count; row++) embed(begin + first + row, places[first + row], narrow.at(row));
        if (model.projection.panels) {
            linear(narrow, count, model.projection, {0, model.hidden}, {0, model.embedding}, stored(x.from(first)));
        } else {
            memcpy(x.at(first), narrow.at(0), sizeof(float) * count * model.hidden);
        }
    }

    // After attention: its output projection, feed-forward, both residual sums and norms, in place.
    void feed_forward(const Layer& layer, Rows<Float32> x, Rows<Side> context, int rows) {
        const int hidden = model.hidden;
        const Span depth = whole(layer.out, Out::GROUP);
        const Rows<Float32> total = model.norm_first ? x : sums;
        linear(ready<Out>(context, rows, layer.out, depth, operand), rows, layer.out, {0, hidden}, depth,
               added(total, x));
        if (model.norm_first) {
            inside(layer, normalised(layer.output_norm, x, rows), total, rows);
            return;
        }
        for (int row = 0; row < rows; row++) {
            normalise(layer.attention_norm, sums.at(row), x.at(row), hidden);
            memcpy(sums.at(row), x.at(row), sizeof(float) * hidden);
        }
        inside(layer, x, total, rows);
        for (int row = 0; row < rows; row++) normalise(layer.output_norm, sums.at(row), x.at(row), hidden);
    }

    // The feed-forward of `x`, added to `total`. Inner values are computed and used a segment at a time; where bytes are
    // multiplied in registers, all of them become bytes first, a block of rows at a time in the first cache.
    void inside(const Layer& layer, Rows<Float32> x, Rows<Float32> total, int rows) {
        const Rows<Main> input = ready<Main>(x, rows, layer.up, {0, model.hidden}, operand);
        for (int begin = 0; begin < model.inner; begin += model.segment) {
            const Span part{begin, smaller(begin + model.segment, model.inner)};
            if constexpr (WHOLE) {
                for (int first = 0; first < rows; first += Main::BLOCK) {
                    const int count = smaller(Main::BLOCK, rows - first);
                    const Rows<Main> to = inner_operand.from(first).behind(begin, model.segment);
                    activate(layer, input.from(first), count, part);
                    for (int row = 0; row < count; row++)
                        write_row<Main, Side>(to, row, inner.at(row), part.size(), nullptr, model.segment);
                }
            } else {
                activate(layer, input, rows, part);
                linear(ready<Main>(inner, rows, layer.down, part, inner_operand), rows, layer.down, {0, model.hidden},
                       part, added(total, total));
            }
        }
        if constexpr (WHOLE)
            linear(inner_operand, rows, layer.down, {0, model.hidden}, {0, model.inner}, added(total, total));
    }

    // A part of the inner values into `inner`.
    void activate(const Layer& layer, Rows<Main> input, int rows, Span part) {
        const Span depth{0, model.hidden};
        const int activation = model.activation, begin = part.begin;
        const Rows<Side> inner = this->inner;
        if (model.gated)
            linear<true>(input, rows, layer.up, {2 * part.begin, 2 * part.end}, depth, [=](int column) {
                return [=](int row, Vec v, Vec gate) {
                    Side::put(inner.at(row) + column / 2 - begin, activated<Side::EXACT>(activation, v) * gate);
                };
            });
        else
            linear(input, rows, layer.up, part, depth, [=](int column) {
                return [=](int row, Vec v) {
                    Side::put(inner.at(row) + column - begin, activated<Side::EXACT>(activation, v));
                };
            });
    }

    // Queries, keys and values of a block; of queries and keys both halves are turned by the angles of their places (Su
    // et al. 2021) where the layer has them.
    void project(const Layer& layer, int first, int count) {
        const Span depth{0, model.hidden};
        Rows<Float32> from = x.from(first);
        if (model.norm_first) from = normalised(layer.attention_norm, from, count);
        const Rows<Main> input = ready<Main>(from, count, layer.qkv, depth, operand);
        const Rows<Side> to = qkv.from(first);
        const int turned = layer.rotation < 0 ? 0 : 2 * attention_width();
        if (turned) {
            const int size = model.head_size;
            const float* angles = call.rotations[layer.rotation];
            const int32_t* place = places + first;
            linear<true>(input, count, layer.qkv, {0, turned}, depth, [=](int column) {
                const float* own = angles + column % size / 2;
                return [=](int row, Vec left, Vec right) {
                    const float* cosine = own + static_cast<size_t>(place[row]) * size;
                    const Vec c = load(cosine), s = load(cosine + size / 2);
                    Side::put(to.at(row) + column, left * c - right * s);
                    Side::put(to.at(row) + column + LANES, right * c + left * s);
                };
            });
        }
        linear(input, count, layer.qkv, {turned, 3 * attention_width()}, depth, [=](int column) {
            return [=](int row, Vec v) { Side::put(to.at(row) + column, v); };
        });
    }

    void attend_head(const Layer& layer, int start, Asking asking, int head_number, Value* out) {
        const int size = model.head_size;
        const Value* query = qkv.at(start) + head_number * size;
        asking.window = layer.window;
        const Value *const key = query + attention_width(), *const value = key + attention_width();
        Value* const to = out + head_number * size;
        if constexpr (Side::Products::SCALED)
            attend_in_words<Side>(query, key, value, qkv.width, asking, size, model.score_scale, head, to,
                                  attention_width());
        else
            attend<Side, Side>(query, key, value, qkv.width, asking, size, model.score_scale, head, 1.0f, to,
                               attention_width());
    }

    bool pools_one() const { return model.pooling == FIRST || model.pooling == LAST; }

    // Rows of a sequence of `length` from `start` on, the last layer done, become one.
    void pool(int start, int length, float* out) {
        const int width = model.hidden;
        for (int token = 0; token < length; token++) {
            const float* row = normalised(model.final_norm, x.from(start + token), 1).at(0);
            for (int i = 0; i < width; i += LANES) {
                const Vec v = load(row + i), before = token ? load(out + i) : v;
                store(out + i, token == 0 ? v : model.pooling == MAX ? larger_or_nan(before, v) : before + v);
            }
        }
        if (model.pooling == MEAN)
            for (int i = 0; i < width; i += LANES) store(out + i, load(out + i) / all(static_cast<float>(length)));
    }

    // What is pooled [count, hidden] through the readout's steps; returns where the last one left it.
    Rows<Float32> read_out(Rows<Float32> rows, int count) {
        for (const Step* step = model.steps; step < model.steps + model.step_count; step++) {
            const Rows<Float32> from = rows;
            rows = from.values == sums.values ? read : sums;
            rows.width = step->width;
            if (step->linear.panels)
                linear(from, count, step->linear, {0, step->width}, {0, from.width}, stored(rows));
            else
                for (int row = 0; row < count; row++) memcpy(rows.at(row), from.at(row), sizeof(float) * step->width);
            for (int row = 0; row < count; row++) {
                float* own = rows.at(row);
                for (int i = 0; i < step->width; i += LANES)
                    store(own + i, activated<true>(step->activation, load(own + i)));
                if (step->norm.weight) normalise(step->norm, own, own, step->width);
                if (step->normalise) to_unit_length(own, step->width);
            }
        }
        return rows;
    }

   public:
    Encoder(const Model& model, const Call& call, Team team, Memory memory) : model(model), call(call), team(team) {
        Pieces shared{memory.shared}, own{memory.own};
        lay_out(shared, own);
    }

    static Sizes sizes(const Model& model, const Call& call) {
        Encoder counted(model, call, Team{0, 1, nullptr}, Memory{nullptr, nullptr});
        Pieces shared{nullptr}, own{nullptr};
        counted.lay_out(shared, own);
        return {shared.used, own.used};
    }

    // All layers, and pooling; where one token is pooled, all but the last layer's feed-forward, which `finish` does.
    void run(int first_sequence, int last_sequence) {
        [[maybe_unused]] typename Main::Scope scope;
        const int* starts = call.starts;
        const int begin = starts[first_sequence], tokens = starts[last_sequence] - begin;
        const int sequences = last_sequence - first_sequence;
        find_places(first_sequence, last_sequence);
        for_blocks(tokens, [&](int first, int count) { embed_block(begin, first, count); });
        for (int number = 0; number < model.layer_count; number++) {
            const Layer& layer = model.layers[number];
            const bool last = pools_one() && number + 1 == model.layer_count;
            for_blocks(tokens, [&](int first, int count) { project(layer, first, count); });
            team.wait();
            for (int item = team.rank; item < sequences * model.heads; item += team.size) {
                const int sequence = first_sequence + item / model.heads, head_number = item % model.heads;
                const int start = starts[sequence] - begin, length = starts[sequence + 1] - starts[sequence];
                Value* out = last ? reinterpret_cast<Value*>(call.context) + static_cast<size_t>(sequence) * attention_width()
                                  : context.at(start);
                const Asking one{model.pooling == LAST ? length - 1 : 0, 1, length, -1}, every{0, length, length, -1};
                attend_head(layer, start, last ? one : every, head_number, out);
            }
            team.wait();
            if (last) break;
            for_blocks(tokens, [&](int first, int count) {
                feed_forward(layer, x.from(first), context.from(first), count);
            });
        }
        if (!pools_one()) team.wait();
        if (model.pooling == TOKENS) {
            for (int token = team.rank; token < tokens; token += team.size)
                memcpy(call.rows + static_cast<size_t>(begin + token) * model.hidden,
                       normalised(model.final_norm, x.from(token), 1).at(0), sizeof(float) * model.hidden);
            team.wait();
            return;
        }
        for (int sequence = first_sequence + team.rank; sequence < last_sequence; sequence += team.size) {
            float* row = call.rows + static_cast<size_t>(sequence) * model.hidden;
            const int start = starts[sequence] - begin, length = starts[sequence + 1] - starts[sequence];
            if (pools_one())
                memcpy(row, x.at(model.pooling == LAST ? start + length - 1 : start), sizeof(float) * model.hidden);
            else
                pool(start, length, row);
        }
        team.wait();
    }

    // The last layer's feed-forward where one token is pooled, and the readout of all pairs.
    void finish(int pairs) {
        if (model.pooling == TOKENS) return;
        [[maybe_unused]] typename Main::Scope scope;
        const int hidden = model.hidden, labels = model.labels;
        const Rows<Float32> all_rows{call.rows, hidden, nullptr, nullptr, 0};
        const Rows<Side> all_context{reinterpret_cast<Value*>(call.context), attention_width(), nullptr, nullptr, 0};
        for_blocks(pairs, [&](int first, int count) {
            Rows<Float32> rows = all_rows.from(first);
            if (pools_one()) {
                feed_forward(model.layers[model.layer_count - 1], rows, all_context.from(first), count);
                rows = normalised(model.final_norm, rows, count);
            }
            rows = read_out(rows, count);
            for (int row = 0; row < count; row++)
                memcpy(call.logits + static_cast<size_t>(first + row) * labels, rows.at(row), sizeof(float) * labels);
        });
    }
};

template <class Main, class Side, class Out>
constexpr Routine routine(const char* name, Precision precision) {
    using Made = Encoder<Main, Side, Out>;
    return {name,
            precision,
            PANEL,
            sizeof(typename Side::Element),
            Main::PLANES > 1,
            Out::SCALED && Out::PLANES == 1,
            MOST_BYTE,
            Made::sizes,
            [](const Model& model, const Call& call, int first, int last, Team team, Memory memory) {
                Made(model, call, team, memory).run(first, last);
            },
            [](const Model& model, const Call& call, int pairs, Team team, Memory memory) {
                Made(model, call, team, memory).finish(pairs);
            }};
}

}  // namespace
