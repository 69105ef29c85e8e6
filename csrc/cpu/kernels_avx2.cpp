#include "arithmetic_avx2.h"
#include "table_impl.h"

namespace fastlangevin {

const Kernels avx2_kernels = make_kernels<Avx2Arithmetic>("avx2");
const MlpKernels mlp_avx2 = make_mlp_kernels<Avx2Arithmetic, Avx2Arithmetic>();

}  // namespace fastlangevin
