// The C interface: plain structures that Python fills through ctypes, and the functions it calls.
//
// Widths are padded by the caller with zero weights: hidden, inner and embedding widths to multiples of 64, head sizes
// to multiples of 32, output columns to whole panels. Nothing here allocates memory or keeps any between calls.
#pragma once

#include <cstddef>
#include <cstdint>

namespace secondpass {

enum Precision : int32_t { FLOAT32, BFLOAT16, INT8, INT16 };
enum Activation : int32_t { GELU, GELU_TANH, RELU, SILU, TANH, NONE };
enum Pooling : int32_t { FIRST, MEAN, MAX, LAST, TOKENS };

// y = x @ weight.T + bias. Panels: [columns / panel][groups][panel] dwords, a dword being one float32, two bfloat16 or int16 or
// four int8 neighbours along the depth. Where a routine has digits, panels are of half as many columns, and there are three
// of them, in turn for every 16 groups. Integers only: `scale` [segments of the depth][columns]. Bytes only: `sums`, scale *
// sum of the integers, as many. `change` [depth] is what happens to rows before they become integers: for digits they are
// multiplied by it (weights were divided); for bytes, where it is not null, they become less by it (the bias has its products).
struct Matrix {
    const void* panels;
    const float* bias;
    const float* scale;
    const float* sums;
    const float* change;
    int32_t columns;
    int32_t groups;
};

// Layer normalisation of `count` values; weight and bias are zero where the width is padded. A null weight: none.
struct Norm {
    const float* weight;
    const float* bias;
    float eps;
    int32_t count;
};

// Norms stand behind attention and feed-forward, or in front of them (`norm_first`). Where queries and keys are turned,
// both halves of a head lie in turn, a register of each; where a feed-forward is gated, so do inner values and gates.
struct Layer {
    Matrix qkv, out, up, down;  // out in bfloat16, words or float32 where a routine is int8
    Norm attention_norm, output_norm;
    int32_t window;    // tokens that one sees to either side; negative: all
    int32_t rotation;  // which of the call's; negative: none
};

// A part of the readout: each of these that is there, in this order. `width` is that of what comes out, padded.
struct Step {
    Matrix linear;  // null panels: none
    Norm norm;
    int32_t width;
    int32_t activation;
    int32_t normalise;  // to a length of 1
};

struct Model {
    const float* words;      // [vocabulary, embedding]
    const float* positions;  // [positions, embedding], from the first position on, or null
    const float* types;      // [types, embedding] or null
    Norm embedding_norm;
    Matrix projection;  // embedding to hidden; null panels: none
    const Layer* layers;
    Norm final_norm;
    const Step* steps;
    int32_t layer_count, step_count, embedding, hidden, heads, head_size, inner, labels;
    int32_t widest;  // of the steps
    int32_t activation, norm_first, gated, pooling;
    int32_t segment;  // values of depth that share a scale, a multiple of 64
    float score_scale;
};

// Sequences end to end: `starts` [pairs + 1] into ids and types, `chunks` [chunk_count + 1] into the sequences.
struct Call {
    const int32_t* ids;
    const int32_t* types;
    const int32_t* starts;
    const int32_t* chunks;
    int32_t pairs, chunk_count, threads;
    int32_t together;  // threads share each chunk instead of taking one each
    int32_t capacity;  // tokens of the largest chunk
    // for each kind of layer [positions, 2, head_size / 2]: cosines and sines of a position's angles
    const float* const* rotations;
    char* memory;      // threads * secondpass_memory(), aligned to 64
    float* rows;       // [pairs + 32, hidden]: what is pooled; one token's before the last layer's feed-forward;
                       // [tokens, hidden]: where nothing is
    char* context;     // [pairs + 32, heads * head_size] elements: their attention there
    float* logits;     // [pairs, labels]
};

// The threads that work on one chunk together, seen by one of them.
class Barrier;
struct Team {
    int rank, size;
    Barrier* barrier;
    void wait() const;  // until all of them are here
};

// Memory of one thread: what a team shares (the first thread's is used) and what is its own.
struct Memory {
    char* shared;
    char* own;
};
struct Sizes {
    size_t shared, own;
};

// What one translation unit makes for its instruction set.
struct Routine {
    const char* name;
    int32_t precision;
    int32_t panel;       // columns
    int32_t side_bytes;  // of one element of the context
    int32_t digits;      // whether weights are digits
    int32_t words;       // whether what attention found is multiplied as words
    int32_t most_byte;   // weights of bytes are at most
    Sizes (*sizes)(const Model&, const Call&);
    void (*chunk)(const Model&, const Call&, int first_sequence, int last_sequence, Team, Memory);
    void (*finish)(const Model&, const Call&, int pairs, Team, Memory);
};

extern const Routine avx2_float32, avx2_int16, avx2_int8, avx_vnni_int16, avx_vnni_int8, avx512_float32, avx512_vnni_int16,
    avx512_vnni_int8, avx512_bf16_bfloat16, avx512_bf16_int8, amx_bfloat16, amx_int8, amx_float32;  // x86-64
extern const Routine neon_float32, neon_dotprod_int8, neon_bf16_bfloat16, neon_i8mm_int8;  // aarch64

}  // namespace secondpass
