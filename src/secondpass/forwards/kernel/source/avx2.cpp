#include "encoder.hpp"

namespace secondpass {

const Routine avx2_float32 = routine<Float32, Float32, Float32>("avx2", FLOAT32);
const Routine avx2_int16 = routine<Int16, NearFloat32, Int16>("avx2", INT16);
const Routine avx2_int8 = routine<Int8, NearFloat32, Int16>("avx2", INT8);

}  // namespace secondpass
