#include "../noise.h"
#include "table_impl.h"

namespace fastlangevin {

const Kernels portable_kernels = make_kernels<ScalarArithmetic, PortableVectors>("portable");
const MlpKernels mlp_portable = make_mlp_kernels<ScalarArithmetic, PortableVectors>();

}  // namespace fastlangevin
