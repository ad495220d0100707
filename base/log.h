/* log.h - one line per event, to stderr.
 *
 * Levels by volume: error (somebody must act), warn (degraded), info (life of the process), debug
 * (life of a request), trace (every micro-batch). Values are set off by a space: "stage 2 ready,
 * layers 10-19". Thread safe: each line is one write. The level comes from --log-level or
 * SLUICE_LOG. */
#ifndef SL_BASE_LOG_H
#define SL_BASE_LOG_H

#ifdef __cplusplus
extern "C" {
#endif

enum sl_log_level { SL_LOG_ERROR, SL_LOG_WARN, SL_LOG_INFO, SL_LOG_DEBUG, SL_LOG_TRACE };

/* What is printed: `level` and everything more important. Default SL_LOG_WARN. */
void sl_log_set_level(enum sl_log_level level);
enum sl_log_level sl_log_get_level(void);

/* "error".."trace" to a level; -1 when it is none of them. */
int sl_log_parse_level(const char *name);

/* A name printed before each line, e.g. "stage alpha/0"; kept as a pointer. NULL for none. */
void sl_log_set_name(const char *name);

/* `area` is the module: "coord", "stage", "link", "http" ... */
void sl_log(enum sl_log_level level, const char *area, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#ifdef __cplusplus
}
#endif
#endif
