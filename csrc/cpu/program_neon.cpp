#include "arithmetic_neon.h"
#include "program_impl.h"

namespace fastlangevin {

const ProgramKernels neon_program = make_program_kernels<NeonArithmetic>();

}  // namespace fastlangevin
