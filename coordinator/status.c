/* status.c - the service for people and programs: stage facts, the timeline, /cluster as JSON, the
 * stage table. */
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "base/sl_assert.h"
#include "base/text.h"
#include "coordinator/internal.h"

static void fill_stage(const struct sl_service *s, const struct sl_coord_status *st, int device,
                       struct sl_stage_status *o)
{
    const struct stage_peer *p = &s->peers[device];
    const struct sl_plan *plan = sl_coord_plan(s->coord);
    *o = (struct sl_stage_status){.device = s->names[device],
                                  .cpu = p->cpu ? p->cpu : "",
                                  .backend = p->backend ? p->backend : "",
                                  .transport_out = p->link_transport,
                                  .activations = p->activations,
                                  .stage = -1,
                                  .state = st->members[device],
                                  .pid = p->pid,
                                  .restarts = st->restarts[device],
                                  .threads = p->threads,
                                  .weight_bytes = p->ready.weight_bytes,
                                  .kv_bytes = p->ready.kv_bytes,
                                  .steps = p->before.steps + p->now.steps,
                                  .rows = p->before.rows + p->now.rows,
                                  .busy_ns = p->before.busy_ns + p->now.busy_ns,
                                  .link_frames = p->before.link_frames + p->now.link_frames,
                                  .link_bytes = p->before.link_bytes + p->now.link_bytes,
                                  .link_busy_ns = p->before.link_busy_ns + p->now.link_busy_ns,
                                  .last_error = p->last_error[0] ? p->last_error : NULL};
    for (int i = 0; plan && i < plan->n_stages; i++) {
        if (plan->stages[i].device != device) continue;
        o->stage = i;
        o->layer_from = plan->stages[i].layer_from;
        o->layer_to = plan->stages[i].layer_to;
    }
    if (st->work_ns) {
        double busy = (double)o->busy_ns / (double)st->work_ns;
        o->busy_ratio = SL_MIN(busy, 1.0);
        o->bubble_ratio = 1.0 - o->busy_ratio;
    }
}

int sl_service_stages(const struct sl_service *s, struct sl_stage_status *out, int max)
{
    struct sl_coord_status st;
    sl_service_get_status(s, &st);
    const struct sl_plan *plan = sl_coord_plan(s->coord);
    int n = 0;
    unsigned char seen[SL_DEVICES_MAX] = {0};
    for (int i = 0; plan && i < plan->n_stages && n < max; i++) {
        fill_stage(s, &st, plan->stages[i].device, &out[n++]);
        seen[plan->stages[i].device] = 1;
    }
    for (int d = 0; d < s->cluster->n_devices && n < max; d++)
        if (!seen[d]) fill_stage(s, &st, d, &out[n++]);
    return n;
}

int sl_service_timeline(const struct sl_service *s, int stage, struct sl_ctl_step *out, int max)
{
    const struct sl_plan *plan = sl_coord_plan(s->coord);
    if (!plan || stage < 0 || stage >= plan->n_stages) return 0;
    const struct stage_peer *p = &s->peers[plan->stages[stage].device];
    int n = SL_MIN(max, (int)p->timeline_len);
    unsigned skip = p->timeline_len - (unsigned)n; /* the newest ones, oldest of them first */
    for (int i = 0; i < n; i++)
        out[i] = p->timeline[(p->timeline_at + skip + (unsigned)i) % SL_TIMELINE_MAX];
    return n;
}

static json_t *stage_json(const struct sl_stage_status *o)
{
    json_t *j =
        json_pack("{s:s, s:s, s:i, s:s, s:s, s:i, s:i, s:i}", "device", o->device, "state",
                  sl_member_state_name(o->state), "stage", o->stage, "cpu", o->cpu, "backend",
                  o->backend, "threads", (int)o->threads, "pid", o->pid, "restarts", o->restarts);
    if (!j) return NULL;
    if (o->stage >= 0)
        json_object_set_new(j, "layers", json_pack("[i,i]", o->layer_from, o->layer_to));
    json_object_set_new(j, "weight_bytes", json_integer((json_int_t)o->weight_bytes));
    json_object_set_new(j, "kv_bytes", json_integer((json_int_t)o->kv_bytes));
    json_object_set_new(j, "steps", json_integer((json_int_t)o->steps));
    json_object_set_new(j, "rows", json_integer((json_int_t)o->rows));
    json_object_set_new(j, "busy_ms", json_real((double)o->busy_ns / 1e6));
    json_object_set_new(j, "busy", json_real(o->busy_ratio));
    json_object_set_new(j, "bubble", json_real(o->bubble_ratio));
    json_object_set_new(j, "link_out",
                        json_pack("{s:s, s:I, s:I, s:f}", "transport", o->transport_out, "frames",
                                  (json_int_t)o->link_frames, "bytes", (json_int_t)o->link_bytes,
                                  "busy_ms", (double)o->link_busy_ns / 1e6));
    if (o->activations)
        json_object_set_new(json_object_get(j, "link_out"), "activations",
                            json_string(o->activations));
    if (o->last_error) json_object_set_new(j, "last_error", json_string(o->last_error));
    return j;
}

static json_t *plan_json(const struct sl_plan *plan)
{
    if (!plan) return json_null();
    return json_pack("{s:i, s:i, s:i, s:i, s:f, s:f}", "stages", plan->n_stages, "kv_blocks",
                     plan->n_blocks, "micro_batches", plan->micro_batches, "chunk", plan->chunk,
                     "predicted_tokens_per_second", plan->tokens_per_s_n,
                     "predicted_tokens_per_second_single", plan->tokens_per_s_1);
}

static json_t *requests_json(const struct sl_coord_status *st)
{
    json_t *j = json_pack("{s:i, s:i, s:i}", "running", st->running, "waiting", st->waiting,
                          "in_flight", st->in_flight);
    const struct {
        const char *key;
        uint64_t v;
    } counts[] = {{"finished", st->finished},
                  {"failed", st->failed_requests},
                  {"cancelled", st->cancelled},
                  {"refused", st->refused},
                  {"preemptions", st->preemptions},
                  {"prompt_tokens", st->prompt_tokens},
                  {"generated_tokens", st->generated_tokens},
                  {"micro_batches", st->batches}};
    for (size_t i = 0; j && i < SL_ARRAY_LEN(counts); i++)
        json_object_set_new(j, counts[i].key, json_integer((json_int_t)counts[i].v));
    return j;
}

struct json_t *sl_service_cluster_json(const struct sl_service *s)
{
    struct sl_coord_status st;
    struct sl_stage_status stages[SL_DEVICES_MAX];
    sl_service_get_status(s, &st);
    json_t *list = json_array();
    int n = sl_service_stages(s, stages, SL_DEVICES_MAX);
    for (int i = 0; i < n; i++) json_array_append_new(list, stage_json(&stages[i]));
    return json_pack("{s:s, s:s, s:b, s:b, s:i, s:i, s:o, s:o, s:{s:i, s:i, s:i}, s:o}", "cluster",
                     s->cluster->name ? s->cluster->name : "", "model", s->model_name, "serving",
                     sl_service_is_serving(s), "failed", s->failed, "epoch", (int)st.epoch,
                     "context", s->context, "plan", plan_json(sl_coord_plan(s->coord)), "stages",
                     list, "kv", "block_tokens", SL_BLOCK_TOKENS, "blocks", st.blocks_total,
                     "blocks_free", st.blocks_free, "requests", requests_json(&st));
}

void sl_service_print_plan(const struct sl_service *s, FILE *out)
{
    const struct sl_plan *plan = sl_coord_plan(s->coord);
    if (plan) sl_plan_print(plan, s->names, out);
}

void sl_service_print(const struct sl_service *s, FILE *out)
{
    struct sl_stage_status v[SL_DEVICES_MAX];
    char weights[32], kv[32], layers[32], sent[32];
    int n = sl_service_stages(s, v, SL_DEVICES_MAX);
    fputs(SL_STAGE_HEAD, out);
    for (int i = 0; i < n; i++) {
        const struct sl_stage_status *o = &v[i];
        if (o->stage < 0) {
            fprintf(out, "%-5s  %-14s  %-9s\n", "-", o->device, sl_member_state_name(o->state));
            continue;
        }
        snprintf(layers, sizeof layers, "%d-%d", o->layer_from, o->layer_to - 1);
        fprintf(out, SL_STAGE_ROW, o->stage, o->device, sl_member_state_name(o->state), layers,
                sl_format_bytes(o->weight_bytes, weights), sl_format_bytes(o->kv_bytes, kv),
                (unsigned long long)o->steps, 100 * o->busy_ratio, 100 * o->bubble_ratio,
                sl_format_bytes(o->link_bytes, sent), o->transport_out);
    }
}
