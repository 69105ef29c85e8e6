#include "program_impl.h"
#include "vectors.h"

namespace fastlangevin {

const ProgramKernels portable_program = make_program_kernels<ScalarArithmetic, PortableVectors>();

}  // namespace fastlangevin
