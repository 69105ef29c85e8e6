#include "arithmetic_neon.h"
#include "table_impl.h"

namespace fastlangevin {

const Kernels neon_kernels = make_kernels<NeonArithmetic>("neon");

}  // namespace fastlangevin
