/* What Debian's build of LLVM's unwinder calls of glibc (_FORTIFY_SOURCE), for musl, which has the calls without a check.
   It prints by them where it is asked to log. */
#include <stdarg.h>
#include <stdio.h>

int __vfprintf_chk(FILE *file, int flag, const char *format, va_list list) {
    (void)flag;
    return vfprintf(file, format, list);
}

int __vsnprintf_chk(char *text, size_t length, int flag, size_t size, const char *format, va_list list) {
    (void)flag;
    (void)size;
    return vsnprintf(text, length, format, list);
}
