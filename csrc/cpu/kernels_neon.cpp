#include "arithmetic_neon.h"
#include "table_impl.h"

namespace fastlangevin {

const Kernels neon_kernels = make_kernels<NeonArithmetic>("neon");
const MlpKernels mlp_neon = make_mlp_kernels<NeonArithmetic, NeonArithmetic>();

}  // namespace fastlangevin
