/* generate.c - see generate.h. */
#include "cli/generate.h"

#include <errno.h>
#include <stdlib.h>

#include "base/env.h"

void sl_generate_fill(const struct sl_generate_options *o, struct sl_submit *req)
{
    struct sl_sampling *s = &req->sampling;
    sl_sampling_default(s);
    s->temperature = (float)o->temp;
    s->top_k = (int32_t)o->top_k;
    s->top_p = (float)o->top_p;
    s->min_p = (float)o->min_p;
    s->repetition_penalty = (float)o->repeat_penalty;
    s->presence_penalty = (float)o->presence_penalty;
    s->frequency_penalty = (float)o->frequency_penalty;
    if (o->seed >= 0)
        s->seed = (uint64_t)o->seed;
    else
        sl_env_random(&s->seed, sizeof s->seed);
    req->max_tokens = (int)o->predict;
    req->ignore_eos = o->ignore_eos;
}

int sl_generate_parse_ids(const char *text, int n_vocab, struct sl_ids *ids, struct sl_err *err)
{
    for (const char *p = text;;) {
        char *end;
        errno = 0;
        long v = strtol(p, &end, 10);
        if (end == p || errno)
            return sl_err_set(err, SL_EUSAGE, "--tokens '%s' is not like 1,2,3", text);
        if (v < 0 || v >= n_vocab)
            return sl_err_set(err, SL_EUSAGE, "--tokens: %ld is not in the vocabulary of %d", v,
                              n_vocab);
        if (sl_ids_push(ids, (int32_t)v))
            return sl_err_set(err, SL_ENOMEM, "no memory for the tokens");
        if (*end == 0) return 0;
        if (*end != ',') return sl_err_set(err, SL_EUSAGE, "--tokens '%s' is not like 1,2,3", text);
        p = end + 1;
    }
}

const char *sl_generate_reason(enum sl_finish f)
{
    switch (f) {
    case SL_FINISH_STOP:
        return "stop";
    case SL_FINISH_LENGTH:
        return "length";
    case SL_FINISH_CANCELLED:
        return "cancelled";
    }
    return "unknown";
}

json_t *sl_generate_stages_json(const struct sl_service *s)
{
    json_t *cluster = sl_service_cluster_json(s);
    json_t *stages = json_incref(json_object_get(cluster, "stages"));
    json_decref(cluster);
    return stages;
}
