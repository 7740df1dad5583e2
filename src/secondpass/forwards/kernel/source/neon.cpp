#include "encoder.hpp"

namespace secondpass {

const Routine neon_float32 = routine<Float32, Float32, Float32>("neon", FLOAT32);

}  // namespace secondpass
