#include "encoder.hpp"

namespace secondpass {

const Routine neon_bf16_bfloat16 = routine<BFloat16, BFloat16, BFloat16>("neon_bf16", BFLOAT16);

}  // namespace secondpass
