/* sl_assert.h - checks of what the programmer promised; on in every build.
 *
 * SL_ASSERT is for bugs of ours (a broken invariant), never for bad input: input gets a struct
 * sl_err. */
#ifndef SL_BASE_ASSERT_H
#define SL_BASE_ASSERT_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Prints file:line and the expression to stderr and aborts. */
#ifdef __cplusplus
[[noreturn]]
#else
_Noreturn
#endif
void sl_assert_fail(const char *expr, const char *file, int line);

#define SL_ASSERT(x) ((x) ? (void)0 : sl_assert_fail(#x, __FILE__, __LINE__))

/* The struct that holds `member` at address `ptr`. */
#define sl_container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

#define SL_ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define SL_MIN(a, b) ((a) < (b) ? (a) : (b))
#define SL_MAX(a, b) ((a) > (b) ? (a) : (b))

#ifdef __cplusplus
}
#endif
#endif
