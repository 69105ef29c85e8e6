#include "arithmetic_avx512.h"
#include "table_impl.h"

namespace fastlangevin {

const Kernels avx512_kernels = make_kernels<Avx512Arithmetic>("avx512");
const MlpKernels mlp_avx512 = make_mlp_kernels<Avx512Arithmetic, Avx512Arithmetic>();

}  // namespace fastlangevin
