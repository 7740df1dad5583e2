#include "encoder.hpp"

namespace secondpass {

const Routine neon_i8mm_int8 = routine<Int8, BFloat16, BFloat16>("neon_i8mm", INT8);

}  // namespace secondpass
