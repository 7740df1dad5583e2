#include "encoder.hpp"

namespace secondpass {

const Routine avx2_float32 = routine<Float32, Float32, Float32>("avx2", FLOAT32);

}  // namespace secondpass
