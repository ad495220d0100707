/* env.h - the only door to clock, chance and the environment.
 *
 * Code that decides (coordinator, scheduler, planner) gets time and chance passed in and never
 * calls this. */
#ifndef SL_BASE_ENV_H
#define SL_BASE_ENV_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Monotonic time in nanoseconds; comparable between processes of one host (CLOCK_MONOTONIC). */
uint64_t sl_env_now_ns(void);

/* Wall clock, milliseconds since 1970 UTC. */
uint64_t sl_env_wall_ms(void);

/* Fills buf with n bytes from the kernel's random source. */
void sl_env_random(void *buf, size_t n);

/* getenv; NULL when unset or empty. */
const char *sl_env_get(const char *name);

/* splitmix64 finaliser: a good 64-bit mix for seeds and hash-based randomness (Steele et al. 2014).
 */
static inline uint64_t sl_mix64(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

#ifdef __cplusplus
}
#endif
#endif
