#include "arithmetic_avx512.h"
#include "convnet_bfloat16_avx512.h"

namespace fastlangevin {

const ConvnetKernels convnet_avx512_bf16 = make_convnet_kernels<Avx512Arithmetic, Avx512BFloat16Convnet>();

}  // namespace fastlangevin
