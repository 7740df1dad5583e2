// Runs a library of the kernel in a process of its own, which an emulator may be: with a library alone it says which
// routines are there, with an image of a model and a call beside it, it computes that call. An image is mapped to where
// its pointers point.
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cstdio>
#include <cstdlib>

#include "../../../src/secondpass/forwards/kernel/source/kernel.h"

namespace {

using namespace secondpass;

struct Image {
    int64_t routine;
    const Model* model;
    Call* call;
};

constexpr uintptr_t PLACE = 0x1000000000;

[[noreturn]] void fail(const char* what) {
    fprintf(stderr, "%s\n", what);
    exit(1);
}

template <class Function>
Function* found(void* library, const char* name) {
    auto* function = reinterpret_cast<Function*>(dlsym(library, name));
    if (!function) fail(dlerror());
    return function;
}

void list(void* library) {
    auto* described = found<const char*(int, int*, int*, int*, int*, int*, int*, int*)>(library, "secondpass_routine");
    int facts[7];
    for (int index = 0;; index++) {
        const char* name = described(index, facts, facts + 1, facts + 2, facts + 3, facts + 4, facts + 5, facts + 6);
        if (!name) return;
        printf("%s", name);
        for (int fact : facts) printf(" %d", fact);
        printf("\n");
    }
}

void compute(void* library, const char* path) {
    const int file = open(path, O_RDWR);
    struct stat about;
    if (file < 0 || fstat(file, &about) != 0) fail("no image");
    void* place = mmap(reinterpret_cast<void*>(PLACE), about.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (place != reinterpret_cast<void*>(PLACE)) fail("the image's place is taken");
    const Image& image = *static_cast<Image*>(place);
    const int routine = static_cast<int>(image.routine);
    if (!found<int(size_t, size_t, size_t, size_t)>(library, "secondpass_fits")(sizeof(Model), sizeof(Layer),
                                                                                sizeof(Step), sizeof(Call)))
        fail("a library of another version");
    const size_t each = found<size_t(int, const Model*, const Call*)>(library, "secondpass_memory")(
        routine, image.model, image.call);
    image.call->memory = static_cast<char*>(aligned_alloc(64, image.call->threads * each));
    if (!image.call->memory) fail("no memory");
    found<void(int, const Model*, const Call*)>(library, "secondpass_run")(routine, image.model, image.call);
    free(image.call->memory);
}

}  // namespace

int main(int count, char** arguments) {
    void* library = dlopen(arguments[1], RTLD_NOW);
    if (!library) fail(dlerror());
    if (count == 2)
        list(library);
    else
        compute(library, arguments[2]);
    return 0;
}
