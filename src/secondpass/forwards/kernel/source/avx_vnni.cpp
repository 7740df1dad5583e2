#include "encoder.hpp"

namespace secondpass {

const Routine avx_vnni_int16 = routine<Int16, NearFloat32, Int16>("avx_vnni", INT16);
const Routine avx_vnni_int8 = routine<Int8, NearFloat32, Int16>("avx_vnni", INT8);

}  // namespace secondpass
