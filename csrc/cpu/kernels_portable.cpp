#include "../noise.h"
#include "kernels_impl.h"

namespace fastlangevin {

const Kernels portable_kernels = make_kernels<ScalarArithmetic>("portable");

}  // namespace fastlangevin
