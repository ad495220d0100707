/* log.c - see log.h. */
#include "base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/env.h"
#include "base/sl_assert.h"

#define LOG_LINE_MAX 1024 /* bytes; a longer line is cut */

static const char *const level_names[] = {"error", "warn", "info", "debug", "trace"};
static _Atomic int current_level = SL_LOG_WARN;
static const char *_Atomic process_name;

void sl_log_set_level(enum sl_log_level level)
{
    atomic_store(&current_level, (int)level);
}

enum sl_log_level sl_log_get_level(void)
{
    return (enum sl_log_level)atomic_load(&current_level);
}

int sl_log_parse_level(const char *name)
{
    for (size_t i = 0; i < SL_ARRAY_LEN(level_names); i++)
        if (strcmp(name, level_names[i]) == 0) return (int)i;
    return -1;
}

void sl_log_set_name(const char *name)
{
    atomic_store(&process_name, name);
}

void sl_log(enum sl_log_level level, const char *area, const char *fmt, ...)
{
    if ((int)level > atomic_load(&current_level)) return;
    char line[LOG_LINE_MAX];
    const char *name = atomic_load(&process_name);
    uint64_t ms = sl_env_wall_ms();
    int n = snprintf(line, sizeof line,
                     "%02u:%02u:%02u.%03u %-5s %s%s%s: ", (unsigned)(ms / 3600000 % 24),
                     (unsigned)(ms / 60000 % 60), (unsigned)(ms / 1000 % 60), (unsigned)(ms % 1000),
                     level_names[level], name ? name : "", name ? " " : "", area);
    n = SL_MIN(n, (int)sizeof line - 2); /* a long name */
    va_list ap;
    va_start(ap, fmt);
    int m = vsnprintf(line + n, sizeof line - (size_t)n - 1, fmt, ap);
    va_end(ap);
    size_t len = SL_MIN((size_t)(n + (m > 0 ? m : 0)), sizeof line - 2);
    for (size_t i = 0; i < len; i++)
        if (line[i] == '\n') line[i] = ' '; /* one event, one line */
    line[len++] = '\n';
    ssize_t done = write(STDERR_FILENO, line, len);
    (void)done; /* nowhere left to complain */
}
