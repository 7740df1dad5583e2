// The whole forward of one chunk of sequences, and of the head for first tokens.
//
// `Main` multiplies with weights of the model's precision, `Side` computes attention and holds what lies between matrix
// products, `Out` multiplies what attention found. Where several threads share a chunk, each takes row blocks and heads.
#pragma once

#include "attention.hpp"

namespace {

// Hands out aligned pieces of one block of memory; with a null block it only counts.
struct Pieces {
    char* memory;
    size_t used = 0;
    template <class T>
    T* take(size_t count) {
        T* piece = reinterpret_cast<T*>(reinterpret_cast<uintptr_t>(memory) + used);
        used += (count * sizeof(T) + 63) / 64 * 64;
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
    static constexpr int MOST_ROWS = 384;  // of a feed-forward block: its values stay in the second cache

    const Model& model;
    const Call& call;
    Team team;
    // of the chunk
    Rows<Float32> x;
    Rows<Side> qkv, context;
    // of this thread
    Rows<Float32> sums;
    Rows<Side> inner;    // a segment of the feed-forward's
    Rows<Main> operand, inner_operand;  // what is multiplied, where it is not taken as it lies
    HeadScratch head;

    int attention_width() const { return model.heads * model.head_size; }

    void lay_out(Pieces& shared, Pieces& own) {
        const int capacity = larger(call.capacity, MOST_ROWS), segment = model.segment;
        const int widest = larger(rounded_up(attention_width(), 64), larger(model.hidden, segment));
        x = shared.rows<Float32>(capacity, model.hidden, segment);
        qkv = shared.rows<Side>(capacity, 3 * attention_width(), segment);
        context = shared.rows<Side>(capacity, attention_width(), segment);
        const int keys = rounded_up(capacity, KEY_STEP);
        sums = own.rows<Float32>(MOST_ROWS, larger(model.hidden, model.embedding), segment);
        sums.width = model.hidden;
        inner = own.rows<Side>(MOST_ROWS, segment, segment);
        operand = own.rows<Main>(MOST_ROWS, widest, segment);
        inner_operand = own.rows<Main>(MOST_ROWS, segment, segment);
        head.keys = own.take<char>(static_cast<size_t>(keys) * model.head_size * sizeof(Value));
        head.values = own.take<char>(static_cast<size_t>(keys) * model.head_size * sizeof(Value));
        head.scores = own.take<float>(static_cast<size_t>(32) * (keys + SCORE_PADDING));
        head.mask = own.take<float>(keys);
    }

    // The first `rows` of `from` as `Unit` multiplies them with a part of the matrix's depth: themselves or in `room`.
    template <class Unit, class Source>
    Rows<Unit> ready(Rows<Source> from, int rows, const Matrix& matrix, Span depth, const Rows<Main>& room) {
        if constexpr (!Unit::SCALED && sizeof(typename Unit::Element) == sizeof(typename Source::Element)) {
            return {from.values, from.width, nullptr, nullptr, 0};
        } else {
            const int width = rounded_up(depth.size(), 64);
            const int segments = rounded_up(width, model.segment) / model.segment;
            const Rows<Unit> to{room.values, width, room.scale, room.low, segments};
            const float* smoothing = Unit::SCALED ? matrix.smoothing + depth.begin : nullptr;
            for (int row = 0; row < rows; row++) {
                if (Unit::SCALED && width > from.width)
                    memset(static_cast<void*>(to.at(row)), 0, width * sizeof(typename Unit::Element));
                write_row<Unit, Source>(to, row, from.at(row), smaller(from.width, width), smoothing, model.segment);
            }
            return to;
        }
    }

    template <class Unit, class Use>
    void linear(Rows<Unit> a, int rows, const Matrix& matrix, Span columns, Span depth, Use use) {
        Linear<Unit, Use>(a, matrix, depth, model.segment, use).run(rows, columns);
    }

    static Span whole(const Matrix& matrix, int group) { return {0, matrix.groups * group}; }

    // Calls work(first, count) for this thread's blocks of `rows` rows.
    template <class Work>
    void for_blocks(int rows, Work work) {
        const int parts = larger(team.size, (rows + MOST_ROWS - 1) / MOST_ROWS);
        const int step = smaller(MOST_ROWS, rounded_up((rows + parts - 1) / parts, 16));
        for (int first = team.rank * step; first < rows; first += team.size * step)
            work(first, smaller(step, rows - first));
    }

    void embed(int token, int position, float* out) {
        const int width = model.embedding;
        const float* word = model.words + static_cast<size_t>(call.ids[token]) * width;
        const float* place = model.positions + static_cast<size_t>(position) * width;
        const float* type = model.types ? model.types + static_cast<size_t>(call.types[token]) * width : nullptr;
        for (int i = 0; i < width; i += LANES) {
            const Vec both = load(word + i) + load(place + i);
            store(out + i, type ? both + load(type + i) : both);
        }
        normalise(model.embedding_norm, out, out, width);
    }

    void embed_block(int first_sequence, int last_sequence, int first, int count) {
        const int* starts = call.starts;
        const int begin = starts[first_sequence];
        Rows<Float32> narrow = sums;
        narrow.width = model.embedding;
        int sequence = first_sequence;
        for (int row = 0; row < count; row++) {
            const int token = begin + first + row;
            while (sequence + 1 < last_sequence && token >= starts[sequence + 1]) sequence++;
            embed(token, token - starts[sequence], narrow.at(row));
        }
        if (model.projection.panels) {
            linear<Float32>(narrow, count, model.projection, {0, model.hidden}, {0, model.embedding},
                            [&](int row, int column, Vec v) { store(x.at(first + row) + column, v); });
        } else {
            memcpy(x.at(first), narrow.at(0), sizeof(float) * count * model.hidden);
        }
    }

    // After attention: its output projection, feed-forward, both residual sums and norms, in place. The feed-forward's
    // inner values are computed and used a segment at a time.
    void feed_forward(const Layer& layer, Rows<Float32> x, Rows<Side> context, int rows) {
        const int hidden = model.hidden;
        const Span out_depth = whole(layer.out, Out::GROUP), up_depth{0, hidden};
        linear(ready<Out>(context, rows, layer.out, out_depth, operand), rows, layer.out, {0, hidden}, out_depth,
               [&](int row, int column, Vec v) { store(sums.at(row) + column, v + load(x.at(row) + column)); });
        for (int row = 0; row < rows; row++) {
            normalise(layer.attention_norm, sums.at(row), x.at(row), hidden);
            memcpy(sums.at(row), x.at(row), sizeof(float) * hidden);
        }
        const Rows<Main> input = ready<Main>(x, rows, layer.up, up_depth, operand);
        for (int begin = 0; begin < model.inner; begin += model.segment) {
            const Span part{begin, smaller(begin + model.segment, model.inner)};
            linear(input, rows, layer.up, part, up_depth, [&](int row, int column, Vec v) {
                Side::put(inner.at(row) + column - begin, activated<Side::EXACT>(model.activation, v));
            });
            linear(ready<Main>(inner, rows, layer.down, part, inner_operand), rows, layer.down, {0, hidden}, part,
                   [&](int row, int column, Vec v) {
                       store(sums.at(row) + column, v + load(sums.at(row) + column));
                   });
        }
        for (int row = 0; row < rows; row++) normalise(layer.output_norm, sums.at(row), x.at(row), hidden);
    }

    void project(const Layer& layer, int first, int count, Span columns) {
        const Span depth{0, model.hidden};
        linear(ready<Main>(x.from(first), count, layer.qkv, depth, operand), count, layer.qkv, columns, depth,
               [&](int row, int column, Vec v) { Side::put(qkv.at(first + row) + column, v); });
    }

    void attend_head(int start, int length, int head_number, int asking, Value* out) {
        const int size = model.head_size;
        const Value* query = qkv.at(start) + head_number * size;
        attend<Side>(query, query + attention_width(), query + 2 * attention_width(), qkv.width, asking, length, size,
                     model.score_scale, head, out + head_number * size, attention_width());
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

    // All layers but the last one's feed-forward, which `finish` does for first tokens.
    void run(int first_sequence, int last_sequence) {
        [[maybe_unused]] typename Main::Scope scope;
        const int* starts = call.starts;
        const int begin = starts[first_sequence], tokens = starts[last_sequence] - begin;
        const int sequences = last_sequence - first_sequence;
        for_blocks(tokens, [&](int first, int count) { embed_block(first_sequence, last_sequence, first, count); });
        for (int number = 0; number < model.layer_count; number++) {
            const Layer& layer = model.layers[number];
            const bool last = number + 1 == model.layer_count;
            for_blocks(tokens, [&](int first, int count) { project(layer, first, count, {0, 3 * attention_width()}); });
            team.wait();
            for (int item = team.rank; item < sequences * model.heads; item += team.size) {
                const int sequence = first_sequence + item / model.heads, head_number = item % model.heads;
                const int start = starts[sequence] - begin, length = starts[sequence + 1] - starts[sequence];
                Value* out = last ? reinterpret_cast<Value*>(call.context) + static_cast<size_t>(sequence) * attention_width()
                                  : context.at(start);
                attend_head(start, length, head_number, last ? 1 : length, out);
            }
            team.wait();
            if (last) break;
            for_blocks(tokens, [&](int first, int count) {
                feed_forward(layer, x.from(first), context.from(first), count);
            });
        }
        for (int sequence = first_sequence + team.rank; sequence < last_sequence; sequence += team.size)
            memcpy(call.rows + static_cast<size_t>(sequence) * model.hidden, x.at(starts[sequence] - begin),
                   sizeof(float) * model.hidden);
        team.wait();
    }

    // The last layer's feed-forward and the head for the first tokens of all pairs.
    void finish(int pairs) {
        [[maybe_unused]] typename Main::Scope scope;
        const int hidden = model.hidden, labels = model.labels;
        const Rows<Float32> all_rows{call.rows, hidden, nullptr, nullptr, 0};
        const Rows<Side> all_context{reinterpret_cast<Value*>(call.context), attention_width(), nullptr, nullptr, 0};
        for_blocks(pairs, [&](int first, int count) {
            Rows<Float32> rows = all_rows.from(first);
            feed_forward(model.layers[model.layer_count - 1], rows, all_context.from(first), count);
            if (model.dense.panels) {
                linear<Float32>(rows, count, model.dense, {0, hidden}, {0, hidden}, [&](int row, int column, Vec v) {
                    store(sums.at(row) + column, activated<true>(model.head_activation, v));
                });
                rows = sums;
            }
            linear<Float32>(rows, count, model.classifier, {0, labels}, {0, hidden}, [&](int row, int column, Vec v) {
                float some[LANES];
                store(some, v);
                float* out = call.logits + static_cast<size_t>(first + row) * labels;
                for (int i = 0; i < LANES && column + i < labels; i++) out[column + i] = some[i];
            });
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
            Made::sizes,
            [](const Model& model, const Call& call, int first, int last, Team team, Memory memory) {
                Made(model, call, team, memory).run(first, last);
            },
            [](const Model& model, const Call& call, int pairs, Team team, Memory memory) {
                Made(model, call, team, memory).finish(pairs);
            }};
}

}  // namespace
