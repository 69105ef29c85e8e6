// Functions by the names that older glibc has them under too, so that the library loads with it. They are the same code
// but for errno.
#pragma once

#include <cmath>

#if defined(__GLIBC__) && defined(__x86_64__)
__asm__(".symver log, log@GLIBC_2.2.5");
#elif defined(__GLIBC__) && defined(__aarch64__)
__asm__(".symver log, log@GLIBC_2.17");
#endif
