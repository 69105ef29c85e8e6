#include "arithmetic_avx2.h"
#include "table_impl.h"

namespace fastlangevin {

const Kernels avx2_kernels = make_kernels<Avx2Arithmetic>("avx2");

}  // namespace fastlangevin
