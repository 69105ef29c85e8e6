#include "arithmetic_avx2.h"
#include "program_impl.h"

namespace fastlangevin {

const ProgramKernels avx2_program = make_program_kernels<Avx2Arithmetic>();

}  // namespace fastlangevin
