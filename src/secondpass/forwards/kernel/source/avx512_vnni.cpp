#include "encoder.hpp"

namespace secondpass {

const Routine avx512_vnni_int16 = routine<Int16, NearFloat32, Int16>("avx512_vnni", INT16);
const Routine avx512_vnni_int8 = routine<Int8, NearFloat32, Int16>("avx512_vnni", INT8);

}  // namespace secondpass
