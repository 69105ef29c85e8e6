#include "arithmetic_avx512.h"
#include "program_impl.h"

namespace fastlangevin {

const ProgramKernels avx512_program = make_program_kernels<Avx512Arithmetic>();

}  // namespace fastlangevin
