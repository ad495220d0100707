/* backend.c - makes a backend: which row of kernels, which threads.
 *
 * A row exists for `cpu` when both its operations and its matmul were compiled and this CPU has
 * what they need. The AMX row is AMX matmul with the best other operations. */
#include "kernels/backend.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/cpu.h"
#include "base/env.h"
#include "base/host.h"
#include "base/sl_assert.h"
#ifdef SL_KERNELS_CUDA
#include "kernels/cuda/device.h"
#endif

#define ROWS_MAX 8

/* The row of operations that goes with a row of matmul: the best that this CPU has, not above the
 * matmul's own. */
static const struct sl_op_row *ops_for(const struct sl_matmul_ops *m)
{
    int n;
    const struct sl_op_row *const *rows = sl_op_rows(&n);
    const struct sl_op_row *best = NULL;
    for (int i = 0; i < n; i++) {
        if ((rows[i]->caps & ~sl_cpu_caps()) == 0) best = rows[i];
        if (strcmp(rows[i]->name, m->row) == 0) break;
    }
    return best;
}

static int usable(const struct sl_matmul_ops *m)
{
    return (m->caps & ~sl_cpu_caps()) == 0 &&
           (strcmp(m->row, "amx") == 0 || strcmp(ops_for(m)->name, m->row) == 0);
}

/* The matmul row called `name`, or the best when it is NULL; NULL when this CPU lacks it. */
static const struct sl_matmul_ops *find_row(const char *name)
{
    int n;
    const struct sl_matmul_ops *const *rows = sl_matmul_rows(&n);
    for (int i = n - 1; i >= 0; i--)
        if ((!name || strcmp(rows[i]->row, name) == 0) && usable(rows[i])) return rows[i];
    return NULL;
}

const char *const *sl_backend_rows(int *n)
{
    static const char *names[ROWS_MAX];
    static atomic_int count; /* names are constants: filling them twice writes the same */
    if (!atomic_load(&count)) {
        int have, k = 0;
        const struct sl_matmul_ops *const *rows = sl_matmul_rows(&have);
        names[k++] = "ref";
        for (int i = 0; i < have && k < ROWS_MAX; i++)
            if (usable(rows[i])) names[k++] = rows[i]->row;
        atomic_store(&count, k);
    }
    *n = atomic_load(&count);
    return names;
}

static int unknown_row(const char *kind, struct sl_err *err)
{
    char have[128] = "cpu";
    int n;
    const char *const *rows = sl_backend_rows(&n);
    for (int i = 0; i < n; i++) {
        size_t used = strlen(have);
        if (used + strlen(rows[i]) + 3 > sizeof(have)) break;
        memcpy(have + used, ", ", 2);
        memcpy(have + used + 2, rows[i], strlen(rows[i]) + 1);
    }
    return sl_err_set(err, SL_EUNSUPPORTED, "kernels: this CPU (%s) has no row \"%s\"; it has %s",
                      sl_cpu_name(), kind, have);
}

static int choose(struct sl_backend *b, const char *kind, struct sl_err *err)
{
    const char *forced = strcmp(kind, "cpu") == 0 ? sl_env_get("SLUICE_CPU") : NULL;
    if (forced) kind = forced;
    if (strcmp(kind, "ref") == 0) {
        b->ops = &sl_ref_ops;
        b->row = "ref";
        b->kv_type = SL_F32;
        return 0;
    }
    b->matmul = find_row(strcmp(kind, "cpu") == 0 ? NULL : kind);
    if (!b->matmul) {
        int rc = unknown_row(kind, err);
        if (forced) sl_err_prefix(err, "SLUICE_CPU: ");
        return rc;
    }
    b->vec = ops_for(b->matmul);
    b->ops = &sl_cpu_ops;
    b->row = b->matmul->row;
    b->kv_type = SL_F16;
    return 0;
}

/* A card by its name "cuda:N", limits may follow (kernels/cuda/limits.h); *is: whether it is such
 * a name. */
static int choose_card(struct sl_backend *b, const char *kind, int *is, struct sl_err *err)
{
    *is = strncmp(kind, "cuda", 4) == 0 && (kind[4] == 0 || kind[4] == ':');
    if (!*is) return 0;
    char *end = "";
    long n = kind[4] ? strtol(kind + 5, &end, 10) : 0;
    if (kind[4] && (end == kind + 5 || (*end && *end != ',') || n < 0 || n > 1023))
        return sl_err_set(err, SL_EINPUT, "'%s' names no card; write cuda:0", kind);
#ifdef SL_KERNELS_CUDA
    return sl_cuda_open(b, (int)n, end, err);
#else
    (void)b;
    return sl_err_set(err, SL_EUNSUPPORTED,
                      "this sluice was built without CUDA, so %s cannot be used; build it with "
                      "-DSLUICE_CUDA=ON",
                      kind);
#endif
}

int sl_backend_create(const struct sl_backend_params *p, struct sl_backend **out,
                      struct sl_err *err)
{
    struct sl_backend *b = calloc(1, sizeof(*b));
    if (!b) return sl_err_set(err, SL_ENOMEM, "kernels: out of memory");
    int card, rc = choose_card(b, p->kind ? p->kind : "cpu", &card, err);
    if (rc == 0 && !card) rc = choose(b, p->kind ? p->kind : "cpu", err);
    if (rc == 0 && !card) rc = sl_pool_create(p->cpus, p->n_threads, &b->pool, err);
    if (rc) {
        sl_backend_destroy(b);
        return rc;
    }
    *out = b;
    return 0;
}

void sl_backend_destroy(struct sl_backend *b)
{
    if (!b) return;
#ifdef SL_KERNELS_CUDA
    sl_cuda_close(b);
#endif
    sl_pool_destroy(b->pool);
    sl_scratch_close(&b->matmul_scratch);
    sl_scratch_close(&b->attention_scratch);
    sl_scratch_close(&b->moe_scratch);
    sl_scratch_close(&b->head_scratch);
    for (int i = 0; i < SL_ROPE_TABLES; i++) sl_rope_table_close(&b->rope[i]);
    free(b);
}

const struct sl_backend_ops *sl_backend_ops(const struct sl_backend *b)
{
    return b->ops;
}

const char *sl_backend_row(const struct sl_backend *b)
{
    return b->row;
}

enum sl_dtype sl_backend_kv_type(const struct sl_backend *b)
{
    return b->kv_type;
}

int sl_backend_card(const struct sl_backend *b)
{
#ifdef SL_KERNELS_CUDA
    if (b->cuda) return sl_cuda_number(b);
#endif
    (void)b;
    return -1;
}

int sl_backend_cards(void)
{
#ifdef SL_KERNELS_CUDA
    return sl_cuda_devices();
#else
    return 0;
#endif
}

uint64_t sl_backend_card_memory(int card)
{
#ifdef SL_KERNELS_CUDA
    return sl_cuda_card_memory(card);
#else
    (void)card;
    return 0;
#endif
}

uint64_t sl_backend_memory(const struct sl_backend *b)
{
#ifdef SL_KERNELS_CUDA
    if (b->cuda) return sl_cuda_card_memory(sl_cuda_number(b));
#endif
    (void)b;
    return sl_host_memory_available();
}

void sl_backend_enter(struct sl_backend *b)
{
#ifdef SL_KERNELS_CUDA
    if (b->cuda) {
        sl_cuda_enter(b);
        return;
    }
#endif
    sl_pool_enter(b->pool);
}

/* ---- measuring memory ------------------------------------------------------------------------ */

#define MEASURE_BYTES (128ll << 20) /* more than the caches a few cores own */
#define MEASURE_NS 30000000u        /* how long to read */

struct read_job {
    uint64_t *words;
    int64_t n;
    int fill;
    _Atomic uint64_t sink; /* keeps the sums alive */
};

static void read_run(void *arg, int thread, int n_threads)
{
    struct read_job *j = arg;
    int64_t from, to;
    sl_pool_share(j->n, 512, thread, n_threads, &from, &to);
    if (j->fill) { /* by the thread that will read: first touch places the pages near it */
        memset(j->words + from, 1, sizeof(*j->words) * (size_t)(to - from));
        return;
    }
    uint64_t sum[8] = {0};
    for (int64_t i = from; i + 8 <= to; i += 8)
        for (int l = 0; l < 8; l++) sum[l] ^= j->words[i + l];
    for (int l = 1; l < 8; l++) sum[0] ^= sum[l];
    atomic_fetch_xor(&j->sink, sum[0]);
}

double sl_backend_measure(struct sl_backend *b)
{
#ifdef SL_KERNELS_CUDA
    if (b->cuda) return sl_cuda_bandwidth(b);
#endif
    struct read_job j = {.words = aligned_alloc(4096, MEASURE_BYTES),
                         .n = MEASURE_BYTES / (int64_t)sizeof(uint64_t),
                         .fill = 1};
    if (!j.words) return 0;
    sl_pool_run(b->pool, read_run, &j);
    j.fill = 0;
    double best = 0;
    uint64_t start = sl_env_now_ns(), now = start;
    do {
        uint64_t t0 = now;
        sl_pool_run(b->pool, read_run, &j);
        now = sl_env_now_ns();
        double rate = (double)MEASURE_BYTES * 1e9 / (double)SL_MAX(now - t0, 1);
        best = SL_MAX(best, rate);
    } while (now - start < MEASURE_NS);
    free(j.words);
    return best;
}
