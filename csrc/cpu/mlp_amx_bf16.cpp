#include "arithmetic_avx512.h"
#include "mlp_chain_impl.h"
#include "mlp_product_amx_impl.h"

namespace fastlangevin {

const MlpKernels mlp_amx_bf16 = make_mlp_kernels<Avx512Arithmetic, Avx512Arithmetic, TileProducts<Avx512Arithmetic>>();

}  // namespace fastlangevin
