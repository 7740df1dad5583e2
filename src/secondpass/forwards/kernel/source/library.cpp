// What Python calls: which routines this processor can run, and one call with its threads.
//
// Threads live for one call: nothing survives into a forked child, and nothing spins between calls.
#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#else
#include <sys/auxv.h>
#endif

#include <atomic>
#include <cstring>
#include <exception>
#include <new>
#include <thread>

#include "kernel.h"

namespace secondpass {

// Tells the processor that one waits for another.
inline void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    asm volatile("yield");
#endif
}

// All threads of a team meet; a short spin first, because they arrive close together.
class Barrier {
   public:
    void wait(int size) {
        const int round = round_.load();
        if (waiting_.fetch_add(1) + 1 == size) {
            waiting_.store(0);
            round_.store(round + 1);
            return;
        }
        for (int spins = 0; round_.load() == round; spins++) {
            if (spins < 2000)
                pause();
            else
                std::this_thread::yield();
        }
    }

   private:
    std::atomic<int> waiting_{0}, round_{0};
};

void Team::wait() const {
    if (size > 1) barrier->wait(size);
}

namespace {

#if defined(__x86_64__)

// Tiles are 8 KB of state more per thread: Linux wants to be asked before the first use (kernel 5.16).
bool tiles_permitted() {
    constexpr long ARCH_REQ_XCOMP_PERM = 0x1023, XTILEDATA = 18;
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA) == 0;
}

// Which registers the system saves when it changes threads: bits of XCR0, none where it does not say.
unsigned saved_registers(unsigned features) {
    constexpr unsigned OSXSAVE = 1u << 27;
    unsigned low = 0, high = 0;
    if (features & OSXSAVE) asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

bool is_intel() {
    unsigned most = 0, name[3] = {};
    __get_cpuid(0, &most, &name[0], &name[2], &name[1]);
    return memcmp(name, "GenuineIntel", sizeof name) == 0;
}

struct Processor {
    bool avx2, avx_vnni, avx512, avx512_vnni, avx512_bf16, amx;
    // Intel multiplies words faster than bfloat16, which takes it twice the time of float32 (Sapphire Rapids, measured).
    bool words_first, words_last;

    Processor() {
        unsigned a = 0, b = 0, c = 0, d = 0, first = 0, a1 = 0, other = 0;
        __get_cpuid(1, &other, &other, &first, &other);
        __get_cpuid_count(7, 0, &a, &b, &c, &d);
        if (a >= 1) __get_cpuid_count(7, 1, &a1, &other, &other, &other);
        // By hand: not every compiler's library fills what __builtin_cpu_supports reads.
        const unsigned saved = saved_registers(first);
        constexpr unsigned FMA = 1u << 12, AVX2 = 1u << 5, F = 1u << 16, DQ = 1u << 17, BW = 1u << 30, VL = 1u << 31;
        constexpr unsigned YMM = 0x6, ZMM = 0xE6;
        avx2 = (first & FMA) && (b & AVX2) && (saved & YMM) == YMM;
        avx_vnni = avx2 && (a1 >> 4 & 1);
        avx512 = avx2 && (b & (F | DQ | BW | VL)) == (F | DQ | BW | VL) && (saved & ZMM) == ZMM;
        avx512_vnni = avx512 && (c >> 11 & 1);
        avx512_bf16 = avx512_vnni && (a1 >> 5 & 1);
        words_first = avx512_vnni && is_intel();
        words_last = avx512_vnni && !words_first;
        constexpr unsigned TILES = 1u << 22 | 1u << 24 | 1u << 25;
        amx = avx512_bf16 && (d & TILES) == TILES && tiles_permitted();
    }
};

#else

struct Processor {
    bool neon, dotprod, bf16, i8mm;

    Processor() {
        // Bits of Linux' interface; headers of older C libraries lack the later ones.
        constexpr unsigned long DOTPROD = 1ul << 20, SECOND_I8MM = 1ul << 13, SECOND_BF16 = 1ul << 14;
        neon = true;
        dotprod = getauxval(AT_HWCAP) & DOTPROD;
        bf16 = getauxval(AT_HWCAP2) & SECOND_BF16;
        // beside its bytes are bfloat16 values
        i8mm = bf16 && (getauxval(AT_HWCAP2) & SECOND_I8MM);
    }
};

#endif

const Processor& processor() {
    static const Processor found;
    return found;
}

struct Choice {
    const Routine* routine;
    bool Processor::* needed;
};

// The fastest of each precision first.
const Choice CHOICES[] = {
#if defined(__x86_64__)
    {&amx_float32, &Processor::amx},
    {&amx_bfloat16, &Processor::amx},
    {&amx_int8, &Processor::amx},
    {&avx512_bf16_bfloat16, &Processor::avx512_bf16},
    {&avx512_vnni_int8, &Processor::words_first},
    {&avx512_bf16_int8, &Processor::avx512_bf16},
    {&avx512_vnni_int8, &Processor::words_last},
    {&avx512_vnni_int16, &Processor::avx512_vnni},
    {&avx512_float32, &Processor::avx512},
    {&avx_vnni_int8, &Processor::avx_vnni},
    {&avx_vnni_int16, &Processor::avx_vnni},
    {&avx2_float32, &Processor::avx2},
    {&avx2_int16, &Processor::avx2},
    {&avx2_int8, &Processor::avx2},
#else
    {&neon_bf16_bfloat16, &Processor::bf16},
    {&neon_i8mm_int8, &Processor::i8mm},
    {&neon_dotprod_int8, &Processor::dotprod},
    {&neon_float32, &Processor::neon},
#endif
};
constexpr int CHOICE_COUNT = sizeof(CHOICES) / sizeof(*CHOICES);

// Calls work(rank, threads) on so many threads, or as many as start; how many is known only when they have: they wait for
// the number.
template <class Work>
void together(int wanted, const Work& work) {
    std::atomic<int> size{0};
    const auto wait = [&](int rank) {
        while (size.load() == 0) std::this_thread::yield();
        work(rank, size.load());
    };
    std::thread* threads = new (std::nothrow) std::thread[wanted];
    int started = 1;
    for (; threads && started < wanted; started++) {
        try {
            threads[started] = std::thread(wait, started);
        } catch (const std::exception&) {
            break;
        }
    }
    size.store(started);
    wait(0);
    for (int rank = 1; rank < started; rank++) threads[rank].join();
    delete[] threads;
}

class Run {
   public:
    Run(const Routine& routine, const Model& model, const Call& call)
        : routine_(routine), model_(model), call_(call), sizes_(routine.sizes(model, call)) {}

    void all() {
        together(call_.threads, [this](int rank, int size) { work(rank, size); });
    }

   private:
    void work(int rank, int size) {
        const Team team{rank, size, &barrier_};
        const Memory mine = memory(rank);
        if (call_.together) {
            const Memory ours{memory(0).shared, mine.own};
            for (int chunk = 0; chunk < call_.chunk_count; chunk++)
                routine_.chunk(model_, call_, call_.chunks[chunk], call_.chunks[chunk + 1], team, ours);
        } else {
            for (int chunk; (chunk = next_.fetch_add(1)) < call_.chunk_count;)
                routine_.chunk(model_, call_, call_.chunks[chunk], call_.chunks[chunk + 1], Team{0, 1, nullptr}, mine);
        }
        team.wait();
        routine_.finish(model_, call_, call_.pairs, team, mine);
    }

    Memory memory(int rank) const {
        char* start = call_.memory + rank * (sizes_.shared + sizes_.own);
        return {start, start + sizes_.shared};
    }

    const Routine& routine_;
    const Model& model_;
    const Call& call_;
    const Sizes sizes_;
    Barrier barrier_;
    std::atomic<int> next_{0};
};

}  // namespace
}  // namespace secondpass

using namespace secondpass;

#pragma GCC visibility push(default)
extern "C" {

// The routine at `index`: its name, or null behind the last one, and what Python must know of it. Earlier libraries have
// a function of another name that says less.
const char* secondpass_routine(int index, int* precision, int* panel, int* side_bytes, int* digits, int* words,
                               int* most_byte, int* runs_here) {
    if (index < 0 || index >= CHOICE_COUNT) return nullptr;
    const Routine& routine = *CHOICES[index].routine;
    *precision = routine.precision;
    *panel = routine.panel;
    *side_bytes = routine.side_bytes;
    *digits = routine.digits;
    *words = routine.words;
    *most_byte = routine.most_byte;
    *runs_here = processor().*CHOICES[index].needed;
    return routine.name;
}

// Whether the caller's structures are as large as these: else it was made for another version.
int secondpass_fits(size_t model, size_t layer, size_t step, size_t call) {
    return model == sizeof(Model) && layer == sizeof(Layer) && step == sizeof(Step) && call == sizeof(Call);
}

// What this was compiled from, by hatch_build.py. Python finds it in the file, which may be for another processor.
const char* secondpass_sources() {
    return SECONDPASS_SOURCES;
}

// Bytes that one thread of the call needs.
size_t secondpass_memory(int index, const Model* model, const Call* call) {
    const Sizes sizes = CHOICES[index].routine->sizes(*model, *call);
    return sizes.shared + sizes.own;
}

void secondpass_run(int index, const Model* model, const Call* call) {
    Run(*CHOICES[index].routine, *model, *call).all();
}
}
