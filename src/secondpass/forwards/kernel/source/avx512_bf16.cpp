#include "encoder.hpp"

namespace secondpass {

const Routine avx512_bf16_bfloat16 = routine<BFloat16, BFloat16, BFloat16>("avx512_bf16", BFLOAT16);
const Routine avx512_bf16_int8 = routine<Int8, BFloat16, BFloat16>("avx512_bf16", INT8);

}  // namespace secondpass
