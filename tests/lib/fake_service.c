/* fake_service.c - see fake_service.h. */
#include "tests/lib/fake_service.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/env.h"
#include "base/list.h"
#include "model/chat.h"
#include "model/config.h"
#include "model/tokenizer.h"
#include "tests/lib/gguf_writer.h"

struct request {
    struct sl_list node;
    struct sl_service *s;
    uint64_t id, submit_ns;
    struct sl_submit sub;
    int32_t *tokens;
    char *stops[SL_STOPS_MAX];
    int given;            /* tokens so far */
    struct sl_ids answer; /* to be given */
    struct sl_detok detok;
    struct sl_buf text; /* not shown yet */
    sl_reply_fn reply;
    void *arg;
};

struct sl_service {
    uv_loop_t *loop;
    uv_timer_t timer;
    struct fake_script script;
    struct fake_counts counts;
    struct sl_submit last;
    struct sl_list live;
    uint64_t next_id;
    uint8_t *file;
    struct sl_weights *weights;
    struct sl_tokenizer *tokenizer;
    struct sl_chat *chat;
    struct sl_config config;
    struct sl_cluster cluster;
    void (*done)(void *arg);
    void *done_arg;
};

/* ---- the model ------------------------------------------------------------------------------- */

static const char chat_template[] =
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/* GPT-2's printable stand-in for a byte, as UTF-8. */
static void byte_char(int byte, char out[4])
{
    int n = 0, cp = byte;
    for (int b = 0; b < 256; b++) {
        int plain = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        if (b == byte) {
            cp = plain ? b : 256 + n;
            break;
        }
        n += !plain;
    }
    memset(out, 0, 4);
    if (cp < 0x80) {
        out[0] = (char)cp;
    } else {
        out[0] = (char)(0xc0 | (cp >> 6));
        out[1] = (char)(0x80 | (cp & 0x3f));
    }
}

static void open_model(struct sl_service *s)
{
    static char names[256][4];
    static const char *tokens[FAKE_VOCAB];
    int32_t types[FAKE_VOCAB];
    static const char *const marks[FAKE_VOCAB - FAKE_MARKS] = {"<tool_call>",
                                                               "</tool_call>",
                                                               "<think>",
                                                               "</think>",
                                                               "[TOOL_CALLS]",
                                                               "[ARGS]",
                                                               "[THINK]",
                                                               "[/THINK]",
                                                               "<|python_tag|>",
                                                               "<|start|>",
                                                               "<|channel|>",
                                                               "<|message|>",
                                                               "<|end|>",
                                                               "<|call|>",
                                                               "<|constrain|>",
                                                               "<｜tool▁calls▁begin｜>",
                                                               "<｜tool▁call▁begin｜>",
                                                               "<｜tool▁sep｜>",
                                                               "<｜tool▁call▁end｜>",
                                                               "<｜tool▁calls▁end｜>",
                                                               "<|tool_call|>"};
    struct gguf_writer g;
    struct sl_err err = {0};
    size_t n;
    for (int i = 0; i < FAKE_VOCAB; i++) {
        if (i < 256) byte_char(i, names[i]);
        tokens[i] = i < 256           ? names[i]
                    : i == FAKE_BOS   ? "<|bos|>"
                    : i == FAKE_START ? "<|im_start|>"
                    : i == FAKE_END   ? "<|im_end|>"
                                      : marks[i - FAKE_MARKS];
        types[i] = i < 256 ? 1 : 3;
    }
    gguf_init(&g);
    gguf_string(&g, "general.architecture", "llama");
    gguf_string(&g, "general.name", "Fake Model");
    gguf_string(&g, "tokenizer.ggml.model", "gpt2");
    gguf_string(&g, "tokenizer.ggml.pre", "smollm");
    gguf_array(&g, "tokenizer.ggml.tokens", GGUF_STRING, FAKE_VOCAB, tokens);
    gguf_array(&g, "tokenizer.ggml.token_type", GGUF_I32, FAKE_VOCAB, types);
    gguf_array(&g, "tokenizer.ggml.merges", GGUF_STRING, 0, tokens);
    gguf_u32(&g, "tokenizer.ggml.bos_token_id", FAKE_BOS);
    gguf_u32(&g, "tokenizer.ggml.eos_token_id", FAKE_END);
    gguf_bool(&g, "tokenizer.ggml.add_bos_token", 0);
    gguf_string(&g, "tokenizer.chat_template", chat_template);
    s->file = gguf_build(&g, &n, NULL, NULL);
    gguf_close(&g);
    if (sl_weights_open_memory("fake-model-Q4.gguf", s->file, n, &s->weights, &err) ||
        sl_tokenizer_open(s->weights, &s->tokenizer, &err) ||
        sl_chat_open(s->weights, NULL, &s->chat, &err)) {
        fprintf(stderr, "fake model: %s\n", err.msg);
        abort();
    }
}

/* ---- answers --------------------------------------------------------------------------------- */

static void request_free(struct request *r)
{
    sl_list_remove(&r->node);
    r->s->counts.live--;
    for (int i = 0; i < r->sub.n_stops; i++) free(r->stops[i]);
    free(r->tokens);
    free(r->answer.data);
    sl_buf_close(&r->text);
    free(r);
}

/* Ends it: the request is freed before the reply, as in the real service. */
static void end(struct request *r, struct sl_effect *fx)
{
    char text[4096];
    size_t n = SL_MIN(r->text.len, sizeof(text));
    sl_reply_fn reply = r->reply;
    void *arg = r->arg;
    if (n) memcpy(text, r->text.data, n);
    fx->id = r->id;
    if (fx->kind == SL_FX_DONE) {
        r->s->counts.done++;
        fx->done.prompt_tokens = r->sub.n_tokens;
        fx->done.completion_tokens = r->given;
        fx->done.text = text;
        fx->done.text_len = n;
        fx->done.timings.queue_ns = 1000000;
    } else {
        r->s->counts.failed++;
    }
    request_free(r);
    reply(arg, fx);
}

static void score(struct request *r)
{
    float *lp = calloc((size_t)r->sub.n_tokens, sizeof(*lp));
    for (int i = 0; i + 1 < r->sub.n_tokens; i++) lp[i] = -0.25f * (float)(i + 1);
    struct sl_scored v = {.n = r->sub.n_tokens - 1, .logprobs = lp};
    struct sl_effect fx = {.kind = SL_FX_SCORED, .id = r->id, .scored = &v};
    uint64_t id = r->id;
    struct sl_service *s = r->s;
    if (v.n > 0) r->reply(r->arg, &fx);
    free(lp);
    struct sl_list *it, *tmp;
    sl_list_each(it, tmp, &s->live) if (sl_container_of(it, struct request, node)->id == id)
    {
        struct sl_effect done = {.kind = SL_FX_DONE, .done = {.reason = SL_FINISH_STOP}};
        end(r, &done);
        return;
    }
}

/* Cuts the pending text at a stop string. 1 when there was one. */
static int find_stop(struct request *r, size_t *hold)
{
    *hold = 0;
    for (int i = 0; i < r->sub.n_stops; i++) {
        const char *at = strstr(sl_buf_str(&r->text), r->stops[i]);
        if (at) {
            r->text.len = (size_t)(at - r->text.data);
            return 1;
        }
        *hold = SL_MAX(*hold, strlen(r->stops[i]) - 1);
    }
    return 0;
}

/* One token. Returns 0 when the request has ended (or was cancelled by its owner). */
static int give(struct request *r)
{
    struct sl_service *s = r->s;
    uint64_t id = r->id;
    struct sl_effect fx = {.id = id};
    size_t hold;
    if (s->script.fail_after >= 0 && r->given >= s->script.fail_after) {
        fx.kind = SL_FX_FAIL;
        fx.fail.code = SL_ERETRY;
        fx.fail.message = "stage 1 was lost; try again";
        end(r, &fx);
        return 0;
    }
    int limit = r->sub.max_tokens > 0 ? r->sub.max_tokens : s->script.context - r->sub.n_tokens;
    int n_answer = s->script.answer ? (int)r->answer.len : r->sub.n_tokens;
    int over = !r->sub.ignore_eos && r->given >= n_answer;
    if (over || r->given >= limit) {
        fx.kind = SL_FX_DONE;
        fx.done.reason = over ? SL_FINISH_STOP : SL_FINISH_LENGTH;
        end(r, &fx);
        return 0;
    }
    const int32_t *answer = s->script.answer ? r->answer.data : r->tokens;
    struct sl_sampled v = {
        .token = answer[r->given % n_answer], .logprob = -0.5f, .n_top = r->sub.sampling.n_top};
    for (int i = 0; i < v.n_top; i++)
        v.top[i] = (struct sl_top){(v.token + i) % 256, -0.5f - (float)i};
    r->given++;
    int shown = 0;
    for (int i = 0; i < r->sub.n_marks; i++) shown |= r->sub.marks[i] == v.token;
    sl_detok_push(&r->detok, s->tokenizer, v.token, shown, &r->text);
    if (find_stop(r, &hold)) {
        fx.kind = SL_FX_DONE;
        fx.done.reason = SL_FINISH_STOP;
        end(r, &fx);
        return 0;
    }
    char text[64];
    size_t n = r->text.len > hold ? SL_MIN(r->text.len - hold, sizeof(text)) : 0;
    if (n) {
        memcpy(text, r->text.data, n);
        sl_buf_consume(&r->text, n);
    }
    fx.kind = SL_FX_TOKEN;
    fx.token.token = v.token;
    fx.token.text = text;
    fx.token.text_len = n;
    fx.token.sampled = &v;
    int cancelled = s->counts.cancelled;
    r->reply(r->arg, &fx);
    if (s->counts.cancelled == cancelled) return 1;
    struct sl_list *it, *tmp;
    sl_list_each(it, tmp,
                 &s->live) if (sl_container_of(it, struct request, node)->id == id) return 1;
    return 0;
}

static void on_tick(uv_timer_t *t)
{
    struct sl_service *s = sl_container_of(t, struct sl_service, timer);
    uint64_t ids[1024];
    int n = 0;
    struct sl_list *it, *tmp;
    sl_list_each(it, tmp, &s->live) if (n < 1024) ids[n++] =
        sl_container_of(it, struct request, node)->id;
    for (int i = 0; i < n && !s->script.hold; i++) { /* by id: a reply may cancel any of them */
        struct request *r = NULL;
        sl_list_each(it, tmp, &s->live) if (sl_container_of(it, struct request, node)->id == ids[i])
            r = sl_container_of(it, struct request, node);
        if (r && r->sub.score)
            score(r);
        else
            for (int k = 0; r && k < s->script.burst; k++)
                if (!give(r)) break;
    }
    uv_timer_start(&s->timer, on_tick, (uint64_t)s->script.tick_ms, 0);
}

/* ---- service.h ------------------------------------------------------------------------------- */

int sl_service_submit(struct sl_service *s, const struct sl_submit *req, sl_reply_fn reply,
                      void *arg, uint64_t *id, struct sl_err *err)
{
    if (s->script.loading) return sl_err_set(err, SL_ERETRY, "the pipeline is not serving yet");
    if (s->counts.live >= s->script.limit)
        return sl_err_set(err, SL_EBUSY, "the queue of %d requests is full; try again later",
                          s->script.limit);
    if (req->n_tokens >= s->script.context)
        return sl_err_set(err, SL_ELIMIT, "the prompt has %d tokens, the context %d", req->n_tokens,
                          s->script.context);
    struct request *r = calloc(1, sizeof(*r));
    r->s = s;
    r->sub = *req;
    r->id = *id = s->next_id++;
    r->submit_ns = sl_env_now_ns();
    r->tokens = malloc((size_t)req->n_tokens * sizeof(*r->tokens));
    memcpy(r->tokens, req->tokens, (size_t)req->n_tokens * sizeof(*r->tokens));
    for (int i = 0; i < req->n_stops; i++) r->stops[i] = strdup(req->stops[i]);
    if (s->script.answer &&
        sl_tokenizer_encode(s->tokenizer, s->script.answer, strlen(s->script.answer),
                            SL_TOK_SPECIAL, &r->answer, err))
        abort();
    sl_buf_init(&r->text, 1 << 20);
    r->reply = reply;
    r->arg = arg;
    sl_list_append(&s->live, &r->node);
    s->last = *req;
    s->counts.live++;
    s->counts.submitted++;
    return 0;
}

void sl_service_cancel(struct sl_service *s, uint64_t id)
{
    struct sl_list *it, *tmp;
    sl_list_each(it, tmp, &s->live)
    {
        struct request *r = sl_container_of(it, struct request, node);
        if (r->id != id) continue;
        s->counts.cancelled++;
        request_free(r);
        return;
    }
}

int sl_service_is_serving(const struct sl_service *s)
{
    return !s->script.loading;
}
const char *sl_service_model_name(const struct sl_service *s)
{
    (void)s;
    return "Fake Model";
}
int sl_service_find_adapter(const struct sl_service *s, const char *name)
{
    return name && strcmp(name, s->cluster.adapters[0].name) == 0;
}
const struct sl_config *sl_service_config(const struct sl_service *s)
{
    return &s->config;
}
const struct sl_tokenizer *sl_service_tokenizer(const struct sl_service *s)
{
    return s->tokenizer;
}
const struct sl_chat *sl_service_chat(const struct sl_service *s)
{
    return s->chat;
}
const struct sl_weights *sl_service_weights(const struct sl_service *s)
{
    return s->weights;
}
int sl_service_context(const struct sl_service *s)
{
    return s->script.context;
}
const struct sl_cluster *sl_service_cluster(const struct sl_service *s)
{
    return &s->cluster;
}

void sl_service_get_status(const struct sl_service *s, struct sl_coord_status *out)
{
    memset(out, 0, sizeof(*out));
    out->serving = !s->script.loading;
    out->running = s->counts.live;
    out->blocks_total = 100;
    out->blocks_free = 75;
    out->preemptions = 3;
    out->prompt_tokens = 1000;
    out->generated_tokens = 2000;
}

int sl_service_stages(const struct sl_service *s, struct sl_stage_status *out, int max)
{
    (void)s;
    SL_ASSERT(max >= 2);
    memset(out, 0, 2 * sizeof(*out));
    for (int i = 0; i < 2; i++) {
        out[i].device = i ? "fake/1" : "fake/0";
        out[i].cpu = "fake";
        out[i].backend = "ref";
        out[i].transport_out = "local";
        out[i].stage = i;
        out[i].layer_from = i * 2;
        out[i].layer_to = i * 2 + 2;
        out[i].state = SL_MEMBER_WIRED;
        out[i].link_bytes = 4096;
        out[i].busy_ratio = 0.5;
        out[i].bubble_ratio = 0.5;
    }
    return 2;
}

struct json_t *sl_service_cluster_json(const struct sl_service *s)
{
    return json_pack("{s:s,s:s,s:i}", "name", "fake", "model", sl_service_model_name(s), "live",
                     s->counts.live);
}

/* ---- life ------------------------------------------------------------------------------------ */

struct sl_service *fake_new(uv_loop_t *loop)
{
    struct sl_service *s = calloc(1, sizeof(*s));
    s->loop = loop;
    s->script = (struct fake_script){1, 1, 64, 512, -1, 0, 0, NULL};
    s->next_id = 1;
    static struct sl_adapter_spec adapter = {"fake-adapter", "/adapters/fake"};
    s->cluster.model_path = "/models/fake-model-Q4.gguf";
    s->cluster.adapters = &adapter;
    s->cluster.n_adapters = 1;
    sl_list_init(&s->live);
    open_model(s);
    uv_timer_init(loop, &s->timer);
    uv_timer_start(&s->timer, on_tick, 1, 0);
    return s;
}

int fake_chat(struct sl_service *s, const struct sl_chat_options *o, struct sl_err *err)
{
    struct sl_chat *chat;
    int rc = sl_chat_open(s->weights, o, &chat, err);
    if (rc) return rc;
    sl_chat_close(s->chat);
    s->chat = chat;
    return 0;
}

struct fake_script *fake_script(struct sl_service *s)
{
    return &s->script;
}
const struct fake_counts *fake_counts(const struct sl_service *s)
{
    return &s->counts;
}
const struct sl_submit *fake_last(const struct sl_service *s)
{
    return &s->last;
}

static void on_closed(uv_handle_t *h)
{
    struct sl_service *s = sl_container_of(h, struct sl_service, timer);
    while (!sl_list_empty(&s->live))
        request_free(sl_container_of(s->live.next, struct request, node));
    sl_chat_close(s->chat);
    sl_tokenizer_close(s->tokenizer);
    sl_weights_close(s->weights);
    free(s->file);
    if (s->done) s->done(s->done_arg);
    free(s);
}

void fake_close(struct sl_service *s, void (*done)(void *arg), void *arg)
{
    s->done = done;
    s->done_arg = arg;
    uv_close((uv_handle_t *)&s->timer, on_closed);
}
