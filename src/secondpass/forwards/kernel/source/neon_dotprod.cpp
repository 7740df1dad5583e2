#include "encoder.hpp"

namespace secondpass {

const Routine neon_dotprod_int8 = routine<Int8, NearFloat32, NearFloat32>("neon_dotprod", INT8);

}  // namespace secondpass
