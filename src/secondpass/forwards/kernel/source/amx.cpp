#include "encoder.hpp"

namespace secondpass {

const Routine amx_bfloat16 = routine<TiledBFloat16, TiledBFloat16, TiledBFloat16>("amx", BFLOAT16);
const Routine amx_float32 = routine<TiledDigits, Float32, TiledDigits>("amx", FLOAT32);
const Routine amx_int8 = routine<TiledInt8, TiledBFloat16, TiledBFloat16>("amx", INT8);

}  // namespace secondpass
