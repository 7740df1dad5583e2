#include "encoder.hpp"

namespace secondpass {

const Routine avx512_float32 = routine<Float32, Float32, Float32>("avx512", FLOAT32);

}  // namespace secondpass
