// The whole forward of one chunk of sequences, and of the head for first tokens.
//
// `Linear` multiplies with weights of the model's precision, `Side` computes attention and holds what lies between
// matrix products; they differ for int8 only. Where several threads share a chunk, each takes row blocks and heads.
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
    Rows<Unit> rows(int count, int width) {
        const int all_rows = rounded_up(count, 32);
        typename Unit::Element* values = take<typename Unit::Element>(static_cast<size_t>(all_rows + 32) * width);
        const bool scaled = Unit::GROUP == 4;
        float* scale = take<float>(scaled ? all_rows : 0);
        return {values, width, scale, take<float>(scaled ? all_rows : 0)};
    }
};

template <class Linear, class Side>
class Encoder {
    using Value = typename Side::Element;
    static constexpr bool QUANTISED = Linear::GROUP == 4;
    static constexpr int MOST_ROWS = 192;  // of a feed-forward block: its inner values stay in the second cache

    const Model& model;
    const Call& call;
    Team team;
    // of the chunk
    Rows<Float32> x;
    Rows<Linear> input;
    Rows<Side> qkv, context;
    // of this thread
    Rows<Float32> sums;
    Rows<Side> inner;
    Rows<Linear> inner_input;
    HeadScratch head;

    int attention_width() const { return model.heads * model.head_size; }

    void lay_out(Pieces& shared, Pieces& own) {
        const int capacity = larger(call.capacity, MOST_ROWS);
        x = shared.rows<Float32>(capacity, model.hidden);
        input = shared.rows<Linear>(capacity, model.hidden);
        qkv = shared.rows<Side>(capacity, 3 * attention_width());
        context = shared.rows<Side>(capacity, attention_width());
        const int keys = rounded_up(capacity, KEY_STEP);
        sums = own.rows<Float32>(MOST_ROWS, larger(model.hidden, model.embedding));
        sums.width = model.hidden;
        inner = own.rows<Side>(MOST_ROWS, model.inner);
        inner_input = own.rows<Linear>(QUANTISED ? MOST_ROWS : 0, model.inner);
        head.keys = own.take<char>(static_cast<size_t>(keys) * model.head_size * sizeof(Value));
        head.values = own.take<char>(static_cast<size_t>(keys) * model.head_size * sizeof(Value));
        head.scores = own.take<float>(static_cast<size_t>(32) * (keys + SCORE_PADDING));
        head.mask = own.take<float>(keys);
    }

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
            linear<Float32>(narrow, count, model.projection, 0, model.hidden,
                            [&](int row, int column, Vec v) { store(x.at(first + row) + column, v); });
        } else {
            memcpy(x.at(first), narrow.at(0), sizeof(float) * count * model.hidden);
        }
        for (int row = first; row < first + count; row++) write_row<Linear, Float32>(input, row, x.at(row));
    }

    // After attention: its output projection, feed-forward, both residual sums and norms, in place.
    void feed_forward(const Layer& layer, Rows<Float32> x, Rows<Linear> input, Rows<Side> context, int rows) {
        const int hidden = model.hidden;
        linear<Side>(context, rows, layer.out, 0, hidden, [&](int row, int column, Vec v) {
            store(sums.at(row) + column, v + load(x.at(row) + column));
        });
        for (int row = 0; row < rows; row++) {
            normalise(layer.attention_norm, sums.at(row), x.at(row), hidden);
            write_row<Linear, Float32>(input, row, x.at(row));
        }
        linear<Linear>(input, rows, layer.up, 0, model.inner, [&](int row, int column, Vec v) {
            Side::put(inner.at(row) + column, activated<Side::EXACT>(model.activation, v));
        });
        const auto add = [&](int row, int column, Vec v) {
            store(sums.at(row) + column, v + load(x.at(row) + column));
        };
        if constexpr (QUANTISED) {
            for (int row = 0; row < rows; row++) write_row<Linear, Side>(inner_input, row, inner.at(row));
            linear<Linear>(inner_input, rows, layer.down, 0, hidden, add);
        } else {
            linear<Side>(inner, rows, layer.down, 0, hidden, add);
        }
        for (int row = 0; row < rows; row++) {
            normalise(layer.output_norm, sums.at(row), x.at(row), hidden);
            write_row<Linear, Float32>(input, row, x.at(row));
        }
    }

    void project(const Layer& layer, int first, int count, int first_column) {
        linear<Linear>(input.from(first), count, layer.qkv, first_column, 3 * attention_width(),
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
        [[maybe_unused]] typename Side::Scope scope;
        const int* starts = call.starts;
        const int begin = starts[first_sequence], tokens = starts[last_sequence] - begin;
        const int sequences = last_sequence - first_sequence;
        for_blocks(tokens, [&](int first, int count) { embed_block(first_sequence, last_sequence, first, count); });
        for (int number = 0; number < model.layer_count; number++) {
            const Layer& layer = model.layers[number];
            const bool last = number + 1 == model.layer_count;
            for_blocks(tokens, [&](int first, int count) { project(layer, first, count, 0); });
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
                feed_forward(layer, x.from(first), input.from(first), context.from(first), count);
            });
        }
        for (int sequence = first_sequence + team.rank; sequence < last_sequence; sequence += team.size)
            memcpy(call.rows + static_cast<size_t>(sequence) * model.hidden, x.at(starts[sequence] - begin),
                   sizeof(float) * model.hidden);
        team.wait();
    }

    // The last layer's feed-forward and the head for the first tokens of all pairs.
    void finish(int pairs) {
        [[maybe_unused]] typename Side::Scope scope;
        const int hidden = model.hidden, labels = model.labels;
        const Rows<Float32> all_rows{call.rows, hidden, nullptr, nullptr};
        const Rows<Side> all_context{reinterpret_cast<Value*>(call.context), attention_width(), nullptr, nullptr};
        for_blocks(pairs, [&](int first, int count) {
            Rows<Float32> rows = all_rows.from(first);
            feed_forward(model.layers[model.layer_count - 1], rows, input, all_context.from(first), count);
            if (model.dense.panels) {
                linear<Float32>(rows, count, model.dense, 0, hidden, [&](int row, int column, Vec v) {
                    store(sums.at(row) + column, activated<true>(model.head_activation, v));
                });
                rows = sums;
            }
            linear<Float32>(rows, count, model.classifier, 0, labels, [&](int row, int column, Vec v) {
                float some[LANES];
                store(some, v);
                float* out = call.logits + static_cast<size_t>(first + row) * labels;
                for (int i = 0; i < LANES && column + i < labels; i++) out[column + i] = some[i];
            });
        });
    }
};

template <class Linear, class Side>
constexpr Routine routine(const char* name, Precision precision) {
    using Made = Encoder<Linear, Side>;
    return {name,
            precision,
            PANEL,
            sizeof(typename Side::Element),
            Made::sizes,
            [](const Model& model, const Call& call, int first, int last, Team team, Memory memory) {
                Made(model, call, team, memory).run(first, last);
            },
            [](const Model& model, const Call& call, int pairs, Team team, Memory memory) {
                Made(model, call, team, memory).finish(pairs);
            }};
}

}  // namespace
