/* fuzz_answer.c - hostile answers: taken apart whole and in pieces, which must give the same
 * events.
 *
 * The first byte chooses the styles, the second the cuts; the rest is the answer. */
#include <jansson.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/env.h"
#include "base/sl_assert.h"
#include "model/answer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static const char tools_text[] =
    "[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{\"type\":\"object\","
    "\"properties\":{\"n\":{\"type\":\"integer\"}}}}}]";

struct log {
    struct sl_buf out;
    int kind;
};

static int on_event(void *arg, const struct sl_answer_event *ev)
{
    struct log *l = arg;
    int joins = l->kind == (int)ev->kind && ev->kind != SL_ANSWER_CALL;
    if (!joins) sl_buf_printf(&l->out, "\n%d %s:", (int)ev->kind, ev->name ? ev->name : "");
    if (ev->n) sl_buf_add(&l->out, ev->text, ev->n);
    l->kind = (int)ev->kind;
    return 0;
}

static void run(struct sl_answer_style style, const json_t *tools, const char *text, size_t n,
                uint64_t cuts, struct log *l)
{
    struct sl_answer *a;
    struct sl_answer_params p = {.style = style, .tools = tools, .fn = on_event, .arg = l};
    sl_buf_init(&l->out, 1u << 26);
    l->kind = -1;
    if (sl_answer_open(&p, &a)) abort();
    for (size_t i = 0, from = 0; i < n; i++) {
        if (i + 1 < n && (!cuts || sl_mix64(cuts + i) % 3)) continue;
        if (sl_answer_push(a, text + from, i + 1 - from)) abort();
        from = i + 1;
    }
    if (sl_answer_finish(a)) abort();
    sl_answer_close(a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static json_t *tools;
    struct log whole, cut;
    if (!tools) tools = json_loads(tools_text, 0, NULL);
    if (n < 2) return 0;
    struct sl_answer_style style = {(enum sl_tool_style)((data[0] & 15) % (SL_TOOLS_PHI + 1)),
                                    (enum sl_reasoning_style)(data[0] >> 4 & 3)};
    run(style, tools, (const char *)data + 2, n - 2, 0, &whole);
    run(style, tools, (const char *)data + 2, n - 2, data[1] + 1u, &cut);
    if (strcmp(sl_buf_str(&whole.out), sl_buf_str(&cut.out)) != 0) abort();
    sl_buf_close(&whole.out);
    sl_buf_close(&cut.out);
    return 0;
}
