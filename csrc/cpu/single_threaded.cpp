// libstdc++'s headers read glibc's __libc_single_threaded, which is in glibc from 2.32 on, to count references without
// atomic operations in programs of one thread. With one of the library's own, which says that there are more, it loads
// with older glibc too.
extern "C" {
__attribute__((visibility("hidden"))) char __libc_single_threaded = 0;
}
