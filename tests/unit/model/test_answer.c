/* test_answer.c - answers taken apart: every style's calls and reasoning, what is malformed, and
 * that it never matters how the text is cut.
 *
 * Events are written down as one line: R[reasoning] C[content] T0(name {arguments}), neighbours of
 * one kind joined; so two runs can be compared as strings. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/env.h"
#include "base/sl_assert.h"
#include "model/answer.h"
#include "model/chat.h"
#include "model/template.h"

#define DS_CALLS "<｜tool▁calls▁begin｜>"
#define DS_CALL "<｜tool▁call▁begin｜>"
#define DS_SEP "<｜tool▁sep｜>"
#define DS_END "<｜tool▁call▁end｜>"
#define DS_ENDS "<｜tool▁calls▁end｜>"
#define H_START "<|start|>assistant"

static const char tools_text[] =
    "[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{\"type\":\"object\","
    "\"properties\":{\"city\":{\"type\":\"string\"},\"n\":{\"type\":\"integer\"},\"deep\":{"
    "\"type\":"
    "\"object\"},\"maybe\":{\"type\":[\"string\",\"null\"]}}}}},"
    "{\"type\":\"function\",\"function\":{\"name\":\"g\"}}]";

/* ---- writing down ---------------------------------------------------------------------------- */

struct log {
    struct sl_buf out, id;
    int kind, calls, open; /* kind: of the bracket that is open, -1 none */
};

static void shut(struct log *l)
{
    if (l->kind >= 0) sl_buf_puts(&l->out, "] ");
    l->kind = -1;
}

static int on_event(void *arg, const struct sl_answer_event *ev)
{
    struct log *l = arg;
    switch (ev->kind) {
    case SL_ANSWER_CONTENT:
    case SL_ANSWER_REASONING:
        assert_true(ev->n > 0);
        assert_false(l->open);
        if (l->kind != (int)ev->kind) {
            shut(l);
            sl_buf_puts(&l->out, ev->kind == SL_ANSWER_CONTENT ? "C[" : "R[");
            l->kind = (int)ev->kind;
        }
        sl_buf_add(&l->out, ev->text, ev->n);
        break;
    case SL_ANSWER_CALL:
        shut(l);
        assert_int_equal(ev->index, l->calls++);
        assert_false(l->open);
        l->open = 1;
        sl_buf_printf(&l->out, "T%d(%s ", ev->index, ev->name);
        sl_buf_printf(&l->id, "%s ", ev->id);
        break;
    case SL_ANSWER_ARGUMENTS:
        assert_true(l->open);
        sl_buf_add(&l->out, ev->text, ev->n);
        break;
    case SL_ANSWER_CALL_END:
        assert_true(l->open);
        l->open = 0;
        sl_buf_puts(&l->out, ") ");
        break;
    }
    return 0;
}

struct setup {
    struct sl_answer_style style;
    const char *prompt;
    int max_calls, no_tools;
};

/* Feeds text[0..n) cut after every place for which cuts says so (a bit mask of a counter-based
 * hash; 0: not at all, 1: everywhere). */
static void run(const struct setup *s, const json_t *tools, const char *text, size_t n,
                uint64_t cuts, struct log *l)
{
    struct sl_answer *a;
    struct sl_answer_params p = {.style = s->style,
                                 .tools = s->no_tools ? NULL : tools,
                                 .max_calls = s->max_calls,
                                 .seed = 7,
                                 .prompt = s->prompt,
                                 .prompt_len = s->prompt ? strlen(s->prompt) : 0,
                                 .fn = on_event,
                                 .arg = l};
    sl_buf_init(&l->out, 1 << 22);
    sl_buf_init(&l->id, 1 << 16);
    l->kind = -1;
    l->calls = l->open = 0;
    assert_int_equal(sl_answer_open(&p, &a), 0);
    for (size_t i = 0, from = 0; i < n; i++) {
        int cut = cuts == 1 || (cuts && sl_mix64(cuts + i) % 3 == 0) || i + 1 == n;
        if (!cut) continue;
        assert_int_equal(sl_answer_push(a, text + from, i + 1 - from), 0);
        from = i + 1;
    }
    assert_int_equal(sl_answer_finish(a), 0);
    assert_int_equal(sl_answer_calls(a), l->calls);
    shut(l);
    while (l->out.len && l->out.data[l->out.len - 1] == ' ') l->out.data[--l->out.len] = 0;
    sl_answer_close(a);
}

static void log_close(struct log *l)
{
    sl_buf_close(&l->out);
    sl_buf_close(&l->id);
}

/* The same answer, whole and cut in many ways. */
static void check_cuts(const struct setup *s, const json_t *tools, const char *text, size_t n,
                       const char *want, int ways)
{
    for (int way = 0; way < ways; way++) {
        struct log l;
        run(s, tools, text, n, (uint64_t)way, &l);
        if (strcmp(sl_buf_str(&l.out), want) != 0)
            fail_msg("style %d/%d, cuts %d of:\n%.*s\ngot:  %s\nwant: %s", (int)s->style.tools,
                     (int)s->style.reasoning, way, (int)n, text, sl_buf_str(&l.out), want);
        log_close(&l);
    }
}

static void expect(const struct setup *s, const char *text, const char *want)
{
    json_t *tools = json_loads(tools_text, 0, NULL);
    assert_non_null(tools);
    check_cuts(s, tools, text, strlen(text), want, 20);
    json_decref(tools);
}

#define STYLE(t, r)                                                                                \
    {                                                                                              \
        .style = { SL_TOOLS_##t, SL_REASONING_##r }                                                \
    }

/* ---- the styles ------------------------------------------------------------------------------ */

static void test_hermes(void **state)
{
    (void)state;
    static const struct setup s = STYLE(HERMES, NONE);
    expect(&s, "Just text.\n", "C[Just text.\n]");
    expect(&s, " a <b> </tool_call> < ", "C[ a <b> </tool_call> < ]");
    expect(&s, "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"city\": \"Rome\"}}\n</tool_call>",
           "T0(f {\"city\": \"Rome\"})");
    expect(&s,
           "Let me see.\n\n<tool_call>\n{\"name\":\"f\",\"arguments\":{\"n\":1.50}}\n</tool_call>\n"
           "<tool_call>{\"arguments\": {}, \"name\": \"g\"}</tool_call>\n done ",
           "C[Let me see.] T0(f {\"n\":1.50}) T1(g {}) C[done ]");
    /* the model leaves marks out, or packs calls together */
    expect(&s, "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"</tool_call>\"}}",
           "T0(f {\"a\": \"</tool_call>\"})");
    expect(&s, "<tool_call>{\"name\": \"f\"}<tool_call>{\"name\": \"g\", \"arguments\": null}",
           "T0(f {}) T1(g {})");
    expect(&s,
           "<tool_call>[{\"name\": \"f\"}, {\"name\": \"g\", \"arguments\": \"{\\\"a\\\": 1}\"}]",
           "T0(f {}) T1(g {\"a\": 1})");
    expect(&s, "<tool_call>{\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":{}}}",
           "T0(f {})");
}

static void test_hermes_malformed(void **state)
{
    (void)state;
    static const struct setup s = STYLE(HERMES, NONE);
    static const char *const bad[] = {
        "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": }}\n</tool_call>",
        "<tool_call>{\"arguments\": {}}</tool_call>",
        "<tool_call>{\"name\": 7, \"arguments\": {}}</tool_call>",
        "<tool_call>{\"name\": \"\", \"arguments\": {}}</tool_call>",
        "<tool_call>{\"name\": \"f\", \"arguments\": [1]}</tool_call>",
        "<tool_call>{\"name\": \"f\", \"arguments\": \"no object\"}</tool_call>",
        "<tool_call>[{\"name\": \"f\"}, 7]</tool_call>",
        "<tool_call>[]</tool_call>",
        "<tool_call>{\"name\": \"f\", \"argu",
        "<tool_call>text</tool_call> and more",
        "<tool_call>\n",
        "<tool_ca",
        "<tool_call><tool_call>",
    };
    for (size_t i = 0; i < SL_ARRAY_LEN(bad); i++) {
        char want[256];
        snprintf(want, sizeof want, "C[%s]", bad[i]);
        expect(&s, bad[i], want);
    }
    /* a good one behind a bad one */
    expect(&s, "<tool_call>{x}</tool_call> <tool_call>{\"name\": \"g\"}</tool_call>",
           "C[<tool_call>{x}</tool_call>] T0(g {})");
}

static void test_think(void **state)
{
    (void)state;
    static const struct setup s = STYLE(HERMES, THINK),
                              open = {.style = {SL_TOOLS_HERMES, SL_REASONING_THINK},
                                      .prompt = "<|im_start|>assistant\n<think>\n"},
                              shut_ = {.style = {SL_TOOLS_HERMES, SL_REASONING_THINK},
                                       .prompt = "assistant\n<think>\n\n</think>\n\n"};
    expect(&s, "<think>\nOne.\n\nTwo.\n</think>\n\nFour. ", "R[One.\n\nTwo.] C[Four. ]");
    expect(&s, "\n<think>a</think><tool_call>{\"name\":\"f\"}</tool_call>", "R[a] T0(f {})");
    expect(&s, "<think>\n\n</think>\n\nHello", "C[Hello]");
    expect(&s, "<think>never <tool_call>{\"name\":\"f\"}</tool_call> ends </thin",
           "R[never <tool_call>{\"name\":\"f\"}</tool_call> ends </thin]");
    expect(&s, "I write <think> and </think>.", "C[I write <think> and </think>.]");
    expect(&s, "<thin ice", "C[<thin ice]");
    expect(&open, "so\n</think>\n\nyes", "R[so] C[yes]");
    expect(&open, "cut off", "R[cut off]");
    expect(&shut_, "yes", "C[yes]");
}

static void test_llama(void **state)
{
    (void)state;
    static const struct setup s = STYLE(LLAMA, NONE);
    expect(&s, "{\"name\": \"f\", \"parameters\": {\"city\": \"Rome\"}}",
           "T0(f {\"city\": \"Rome\"})");
    expect(&s,
           "{\"name\": \"f\", \"parameters\": {}}; {\"name\": \"g\", \"parameters\": {\"a\": "
           "\"x;y\"}};{\"type\": \"function\", \"name\": \"g\", \"parameters\": {}}",
           "T0(f {}) T1(g {\"a\": \"x;y\"}) T2(g {})");
    expect(&s, "{\"type\": \"function\", \"function\": \"f\", \"parameters\": {\"n\": 1}}",
           "T0(f {\"n\": 1})");
    expect(&s, "<|python_tag|>{\"name\": \"f\", \"parameters\": {}}; {\"name\": \"g\"}",
           "T0(f {}) T1(g {})");
    expect(&s, "Searching. <|python_tag|>brave_search.call(query=\"pi \\\" day\", n=3)",
           "C[Searching.] T0(brave_search {\"query\": \"pi \\\" day\", \"n\": 3})");
    expect(&s, "<|python_tag|>import math\nprint(math.pi)\n",
           "T0(python {\"code\": \"import math\\nprint(math.pi)\"})");
    /* not calls */
    expect(&s, "{\"answer\": 42}", "C[{\"answer\": 42}]");
    expect(&s, "{\"name\": \"Ada\", \"age\": 36}", "C[{\"name\": \"Ada\", \"age\": 36}]");
    expect(&s, "The object {\"name\": \"f\", \"parameters\": {}}",
           "C[The object {\"name\": \"f\", \"parameters\": {}}]");
    expect(&s, "{\"name\": \"f\", \"parameters\": {", "C[{\"name\": \"f\", \"parameters\": {]");
    expect(&s, "{\"name\": \"f\"}; then", "T0(f {}) C[; then]");
    expect(&s, "<|python_tag|>", "C[<|python_tag|>]");
    expect(&s, "<|python_tag|>{\"name\": ", "C[<|python_tag|>{\"name\": ]");
}

static void test_deepseek(void **state)
{
    (void)state;
    static const struct setup s = STYLE(DEEPSEEK, THINK);
    expect(&s,
           "<think>hm</think>" DS_CALLS DS_CALL "function" DS_SEP
           "f\n```json\n{\"city\": \"```\"}\n```" DS_END "\n" DS_CALL "function" DS_SEP
           "g\n```json\n{}\n```" DS_END DS_ENDS,
           "R[hm] T0(f {\"city\": \"```\"}) T1(g {})");
    expect(&s,
           "Both: " DS_CALLS DS_CALL "f" DS_SEP "{\"n\": 1}" DS_END DS_CALL "function" DS_SEP
           "{\"a\": 2}" DS_END DS_ENDS,
           "C[Both:] T0(f {\"n\": 1}) T1(function {\"a\": 2})");
    expect(&s, DS_CALL "f" DS_SEP "{}", "T0(f {})"); /* marks left out */
    expect(&s, DS_CALLS DS_CALL "f" DS_SEP "{" DS_END DS_ENDS,
           "C[" DS_CALLS DS_CALL "f" DS_SEP "{" DS_END DS_ENDS "]");
    expect(&s, DS_CALLS "what", "C[" DS_CALLS "what]");
    expect(&s, "a <｜b｜> c <｜tool▁calls", "C[a <｜b｜> c <｜tool▁calls]");
}

static void test_mistral(void **state)
{
    (void)state;
    static const struct setup s = STYLE(MISTRAL, MISTRAL);
    expect(&s,
           "[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {\"n\": 1}}, {\"name\": \"g\", "
           "\"arguments\": {}, \"id\": \"abcdefghi\"}]",
           "T0(f {\"n\": 1}) T1(g {})");
    expect(&s,
           "[THINK]well[/THINK]Sure.[TOOL_CALLS]f[CALL_ID]123456789[ARGS]{\"n\": 1}"
           "[TOOL_CALLS]g[ARGS]{}",
           "R[well] C[Sure.] T0(f {\"n\": 1}) T1(g {})");
    expect(&s, "[TOOL_CALLS]f{\"a\": [1, 2]}", "T0(f {\"a\": [1, 2]})");
    expect(&s, "[1] and [TOOL", "C[[1] and [TOOL]");
    expect(&s, "[TOOL_CALLS] [{\"name\": \"f\"", "C[[TOOL_CALLS] [{\"name\": \"f\"]");
    expect(&s, "[TOOL_CALLS]f[ARGS]no", "C[[TOOL_CALLS]f[ARGS]no]");
    expect(&s, "[TOOL_CALLS]!", "C[[TOOL_CALLS]!]");
    json_t *tools = json_loads(tools_text, 0, NULL);
    struct log l;
    static const char ids[] = "[TOOL_CALLS]f[CALL_ID]123456789[ARGS]{}[TOOL_CALLS]g{}";
    run(&s, tools, ids, sizeof ids - 1, 0, &l);
    assert_memory_equal(sl_buf_str(&l.id), "123456789 ", 10);
    assert_int_equal(l.id.len, 20); /* the templates insist on nine characters */
    log_close(&l);
    json_decref(tools);
}

static void test_harmony(void **state)
{
    (void)state;
    static const struct setup s = {.style = {SL_TOOLS_HARMONY, SL_REASONING_HARMONY},
                                   .prompt = "<|start|>user<|message|>hi<|end|>" H_START},
                              body = {.style = {SL_TOOLS_HARMONY, SL_REASONING_HARMONY},
                                      .prompt = H_START "<|channel|>analysis<|message|>As I"};
    expect(&s,
           "<|channel|>analysis<|message|>Think.<|end|>" H_START
           "<|channel|>final<|message|>Say. <|return|>",
           "R[Think.] C[Say.]");
    expect(&s,
           "<|channel|>analysis<|message|>A<|end|>" H_START
           "<|channel|>analysis<|message|>B\n<|end|>" H_START
           "<|channel|>commentary<|message|>Now.<|end|>" H_START "<|channel|>final<|message|>Then.",
           "R[A\nB] C[Now.\nThen.]");
    expect(&s,
           "<|channel|>analysis<|message|>Call.<|end|>" H_START
           "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{\"n\": 1}<|call|>",
           "R[Call.] T0(f {\"n\": 1})");
    expect(&s, " to=functions.f<|channel|>commentary <|constrain|>json<|message|> {\"a\":\"<\"} ",
           "T0(f {\"a\":\"<\"})");
    expect(&s,
           "<|channel|>commentary to=functions.f<|message|>{}<|call|>" H_START
           " to=functions.g<|channel|>commentary<|message|><|end|>",
           "T0(f {}) T1(g {})");
    expect(&s, "<|channel|>commentary to=f<|message|>{}", "T0(f {})");
    expect(&s, "<|channel|>analysis to=browser.search code<|message|>{\"q\": 1}<|call|>",
           "R[{\"q\": 1}]");
    expect(&s, "<|channel|>analysis<|message|>x<|channel|>final<|message|>y", "R[x] C[y]");
    expect(&body, " said.<|end|>" H_START "<|channel|>final<|message|>Yes.", "R[ said.] C[Yes.]");
    /* not as it should be */
    expect(&s, "Plain <b> text.", "C[Plain <b> text.]");
    expect(&s, "<|channel|>fin", "");
    expect(&s, "<|channel|>commentary to=functions.f<|message|>{\"n\": <|call|>",
           "C[<|channel|>commentary to=functions.f<|message|>{\"n\":]");
    expect(&s, "<|channel|>final<|message|>a<|end|>b", "C[a\nb]");
    expect(&s, "<|channel|>final<|end|>x", "C[<|channel|>final\nx]");
}

static void test_other_styles(void **state)
{
    (void)state;
    static const struct setup granite = STYLE(GRANITE, NONE), phi = STYLE(PHI, NONE),
                              coder = STYLE(QWEN_CODER, NONE), glm = STYLE(GLM, THINK);
    expect(&granite, "<|tool_call|>[{\"name\": \"f\", \"arguments\": {}}, {\"name\": \"g\"}]",
           "T0(f {}) T1(g {})");
    expect(&granite, "<tool_call>[{\"name\": \"f\"}]</tool_call>", "T0(f {})");
    expect(&phi, "functools[{\"name\": \"f\", \"arguments\": {\"n\": 2}}]", "T0(f {\"n\": 2})");
    expect(&phi, "<|tool_call|>[{\"name\": \"f\"}]<|/tool_call|>", "T0(f {})");
    expect(&phi, "python has functools.", "C[python has functools.]");
    expect(&coder,
           "Ok.\n<tool_call>\n<function=f>\n<parameter=city>\nNew\n\"York\"\n</parameter>\n"
           "<parameter=n>\n3\n</parameter>\n<parameter=deep>{\"a\": True}</parameter>\n"
           "<parameter=maybe>null</parameter></function>\n</tool_call>",
           "C[Ok.] T0(f {\"city\": \"New\\n\\\"York\\\"\", \"n\": 3, \"deep\": \"{\\\"a\\\": "
           "True}\", \"maybe\": \"null\"})");
    expect(&coder, "<function=g></function><tool_call><function=f\n></function>",
           "T0(g {}) T1(f {})");
    expect(&coder, "<tool_call><function=f><parameter=n>1</function>",
           "C[<tool_call><function=f><parameter=n>1</function>]");
    expect(&glm,
           "<think>x</think>\n<tool_call>f\n<arg_key>city</arg_key>\n<arg_value>A B</arg_value>\n"
           "<arg_key>n</arg_key><arg_value>7</arg_value>\n</tool_call><tool_call>g</tool_call>",
           "R[x] T0(f {\"city\": \"A B\", \"n\": 7}) T1(g {})");
    expect(&glm, "<tool_call>f<arg_key>a</tool_call>", "C[<tool_call>f<arg_key>a</tool_call>]");
}

static void test_limits_and_modes(void **state)
{
    (void)state;
    struct setup s = STYLE(HERMES, NONE);
    static const char two[] = "<tool_call>{\"name\":\"f\"}</tool_call><tool_call>{\"name\":\"g\"}"
                              "</tool_call>";
    s.max_calls = 1;
    expect(&s, two, "T0(f {})");
    s.max_calls = 0;
    s.no_tools = 1; /* nothing was offered: nothing is called */
    char want[sizeof two + 3];
    snprintf(want, sizeof want, "C[%s]", two);
    expect(&s, two, want);
    struct setup h = STYLE(HARMONY, HARMONY);
    h.no_tools = 1;
    expect(&h, "<|channel|>commentary to=functions.f<|message|>{}<|call|>",
           "C[<|channel|>commentary to=functions.f<|message|>{}]");
    struct setup none = STYLE(NONE, NONE);
    expect(&none, " <tool_call> <think> ", "C[ <tool_call> <think> ]");
}

/* A call that never ends is text once it is too long, not memory for ever. */
static void test_endless_call(void **state)
{
    (void)state;
    static const struct setup s = STYLE(HERMES, NONE);
    json_t *tools = json_loads(tools_text, 0, NULL);
    size_t n = SL_ANSWER_HELD_MAX + 1000;
    char *text = malloc(n);
    memset(text, 'x', n);
    memcpy(text, "<tool_call>{\"", 13);
    for (int way = 0; way < 2; way++) {
        struct log l;
        struct sl_answer *a;
        struct sl_answer_params p = {.style = s.style, .tools = tools, .fn = on_event, .arg = &l};
        memset(&l, 0, sizeof l);
        sl_buf_init(&l.out, 3 * SL_ANSWER_HELD_MAX);
        sl_buf_init(&l.id, 100);
        l.kind = -1;
        assert_int_equal(sl_answer_open(&p, &a), 0);
        size_t part = way ? 4096 : n;
        for (size_t i = 0; i < n; i += part)
            assert_int_equal(sl_answer_push(a, text + i, SL_MIN(part, n - i)), 0);
        assert_true(l.out.len > SL_ANSWER_HELD_MAX / 2);
        assert_int_equal(sl_answer_finish(a), 0);
        assert_int_equal(l.out.len, n + 2);
        assert_int_equal(l.calls, 0);
        sl_answer_close(a);
        log_close(&l);
    }
    free(text);
    json_decref(tools);
}

/* ---- any text, any cut ------------------------------------------------------------------------
 */

static void test_any_cut(void **state)
{
    (void)state;
    static const char *const bits[] = {"<tool_call>",
                                       "</tool_call>",
                                       "<tool_",
                                       "{\"name\": \"f\"}",
                                       "{",
                                       "}",
                                       "\"",
                                       "\\",
                                       "[",
                                       "]",
                                       "\n",
                                       " ",
                                       "text",
                                       "<think>",
                                       "</think>",
                                       "[THINK]",
                                       "[/THINK]",
                                       "[TOOL_CALLS]",
                                       "[ARGS]",
                                       "[CALL_ID]",
                                       "f",
                                       "functions.f",
                                       "to=",
                                       " to=functions.f",
                                       "<|start|>",
                                       "<|channel|>",
                                       "analysis",
                                       "commentary",
                                       "<|message|>",
                                       "<|end|>",
                                       "<|call|>",
                                       "<|return|>",
                                       "<|",
                                       "<|python_tag|>",
                                       ";",
                                       "{\"name\": \"g\", \"parameters\": {\"a\": 1}}",
                                       "<|tool_call|>",
                                       "functools",
                                       "[{\"name\": \"f\"}]",
                                       "<function=",
                                       "f>",
                                       "<parameter=n>",
                                       "</parameter>",
                                       "</function>",
                                       "<arg_key>",
                                       "</arg_key>",
                                       "<arg_value>",
                                       "</arg_value>",
                                       DS_CALLS,
                                       DS_CALL,
                                       DS_SEP,
                                       DS_END,
                                       DS_ENDS,
                                       "```json\n",
                                       "```",
                                       "function",
                                       "f.call(a=1)",
                                       "é",
                                       "<",
                                       "｜"};
    json_t *tools = json_loads(tools_text, 0, NULL);
    for (uint64_t seed = 1; seed <= 6000; seed++) {
        struct setup s = {0};
        struct log l;
        char text[512];
        size_t n = 0;
        uint64_t x = sl_mix64(seed);
        s.style.tools = (enum sl_tool_style)(x % (SL_TOOLS_PHI + 1));
        s.style.reasoning = (enum sl_reasoning_style)((x >> 8) % (SL_REASONING_HARMONY + 1));
        s.prompt = (x >> 16) % 3 == 0 ? "a<think>\n" : (x >> 16) % 3 == 1 ? H_START : NULL;
        for (int i = 0, k = 1 + (int)((x >> 24) % 14); i < k; i++) {
            const char *b = bits[sl_mix64(seed * 100 + (uint64_t)i) % SL_ARRAY_LEN(bits)];
            memcpy(text + n, b, strlen(b));
            n += strlen(b);
        }
        run(&s, tools, text, n, 0, &l);
        check_cuts(&s, tools, text, n, sl_buf_str(&l.out), 6);
        log_close(&l);
    }
    json_decref(tools);
}

/* ---- choosing a style --------------------------------------------------------------------------
 */

static struct sl_answer_style of(const char *source)
{
    struct sl_template *t;
    struct sl_err err;
    assert_int_equal(sl_template_compile(source, strlen(source), &t, &err), 0);
    struct sl_answer_style s = sl_answer_style_of(t);
    sl_template_free(t);
    return s;
}

static void test_style(void **state)
{
    (void)state;
    static const struct {
        const char *source;
        enum sl_tool_style tools;
        enum sl_reasoning_style reasoning;
    } cases[] = {
        {"{{ messages }}", SL_TOOLS_NONE, SL_REASONING_NONE},
        {"{{ '<tool_call>' }}", SL_TOOLS_HERMES, SL_REASONING_NONE},
        {"<tool_call>{{ x.split('</think>') }}", SL_TOOLS_HERMES, SL_REASONING_THINK},
        {"<tool_call><function=x><parameter=y>", SL_TOOLS_QWEN_CODER, SL_REASONING_NONE},
        {"<tool_call><arg_key>", SL_TOOLS_GLM, SL_REASONING_NONE},
        {"<|python_tag|>", SL_TOOLS_LLAMA, SL_REASONING_NONE},
        {"{{ '" DS_CALLS "' }}</think>", SL_TOOLS_DEEPSEEK, SL_REASONING_THINK},
        {"[TOOL_CALLS] [THINK]", SL_TOOLS_MISTRAL, SL_REASONING_MISTRAL},
        {"<|channel|>x<|message|>", SL_TOOLS_HARMONY, SL_REASONING_HARMONY},
        {"<|tool_call|>", SL_TOOLS_GRANITE, SL_REASONING_NONE},
        {"<|tool_call|>x<|/tool_call|>", SL_TOOLS_PHI, SL_REASONING_NONE},
    };
    for (size_t i = 0; i < SL_ARRAY_LEN(cases); i++) {
        struct sl_answer_style s = of(cases[i].source);
        assert_int_equal(s.tools, cases[i].tools);
        assert_int_equal(s.reasoning, cases[i].reasoning);
    }
    assert_int_equal(sl_answer_style_of(NULL).tools, SL_TOOLS_NONE);
    struct sl_answer_style s = {0};
    struct sl_err err;
    assert_int_equal(sl_answer_style_name(&s, "llama3_json", "deepseek_r1", &err), 0);
    assert_int_equal(s.tools, SL_TOOLS_LLAMA);
    assert_int_equal(s.reasoning, SL_REASONING_THINK);
    assert_int_equal(sl_answer_style_name(&s, NULL, "none", &err), 0);
    assert_int_equal(s.reasoning, SL_REASONING_NONE);
    assert_int_equal(sl_answer_style_name(&s, "harmony", "auto", &err), 0);
    assert_int_equal(s.reasoning, SL_REASONING_HARMONY);
    assert_string_equal(sl_answer_tools_name(s.tools), "openai");
    assert_string_equal(sl_answer_reasoning_name(SL_REASONING_THINK), "think");
    assert_int_equal(sl_answer_style_name(&s, "hermse", NULL, &err), SL_EUSAGE);
    assert_non_null(strstr(err.msg, "hermes, "));
    assert_int_equal(sl_answer_style_name(&s, NULL, "x", &err), SL_EUSAGE);
}

/* What is forced, followed by what a model would add, is a call; so the two agree. */
static void test_force(void **state)
{
    (void)state;
    static const struct {
        struct setup s;
        const char *source, *rest;
    } cases[] = {
        {STYLE(HERMES, NONE), "", " {\"n\": 1}}\n</tool_call>"},
        {{.style = {SL_TOOLS_HERMES, SL_REASONING_THINK}, .prompt = "<think>\n"},
         "",
         " {\"n\": 1}}"},
        {STYLE(QWEN_CODER, NONE), "", "<parameter=n>1</parameter></function></tool_call>"},
        {STYLE(GLM, NONE), "", "<arg_key>n</arg_key><arg_value>1</arg_value></tool_call>"},
        {STYLE(LLAMA, NONE), "", " {\"n\": 1}}"},
        {STYLE(DEEPSEEK, NONE), "```json", "{\"n\": 1}\n```" DS_END DS_ENDS},
        {STYLE(DEEPSEEK, NONE), "", "{\"n\": 1}" DS_END DS_ENDS},
        {STYLE(MISTRAL, NONE), "", " {\"n\": 1}}]"},
        {STYLE(MISTRAL, NONE), "[ARGS]", "{\"n\": 1}"},
        {{.style = {SL_TOOLS_HARMONY, SL_REASONING_HARMONY}, .prompt = H_START}, "", "{\"n\": 1}"},
        {STYLE(GRANITE, NONE), "", " {\"n\": 1}}]"},
        {STYLE(PHI, NONE), "", " {\"n\": 1}}]<|/tool_call|>"},
        {STYLE(PHI, NONE), "functools[", " {\"n\": 1}}]"},
    };
    for (size_t i = 0; i < SL_ARRAY_LEN(cases); i++) {
        struct sl_template *t;
        struct sl_err err;
        struct sl_buf text;
        const char *prompt = cases[i].s.prompt ? cases[i].s.prompt : "";
        sl_buf_init(&text, 4096);
        assert_int_equal(sl_template_compile(cases[i].source, strlen(cases[i].source), &t, &err),
                         0);
        assert_int_equal(
            sl_answer_force(cases[i].s.style, t, "f", prompt, strlen(prompt), &text, &err), 0);
        sl_buf_puts(&text, cases[i].rest);
        struct log l;
        json_t *tools = json_loads(tools_text, 0, NULL);
        run(&cases[i].s, tools, sl_buf_str(&text), text.len, 1, &l);
        json_t *got = json_loads(strchr(sl_buf_str(&l.out), '{'), JSON_DISABLE_EOF_CHECK, NULL);
        assert_memory_equal(sl_buf_str(&l.out), "T0(f {", 6);
        assert_int_equal(json_integer_value(json_object_get(got, "n")), 1);
        json_decref(got);
        log_close(&l);
        /* any tool: the beginning of the same */
        struct sl_buf any;
        sl_buf_init(&any, 4096);
        assert_int_equal(
            sl_answer_force(cases[i].s.style, t, NULL, prompt, strlen(prompt), &any, &err), 0);
        assert_memory_equal(sl_buf_str(&any), sl_buf_str(&text), any.len);
        sl_buf_close(&any);
        sl_buf_close(&text);
        sl_template_free(t);
        json_decref(tools);
    }
    struct sl_answer_style none = {0};
    struct sl_buf out;
    struct sl_err err;
    sl_buf_init(&out, 10);
    assert_int_equal(sl_answer_force(none, NULL, NULL, "", 0, &out, &err), SL_EUNSUPPORTED);
    sl_buf_close(&out);
}

static void test_marks(void **state)
{
    (void)state;
    const char *marks[SL_ANSWER_MARKS_MAX];
    for (int t = 0; t <= SL_TOOLS_PHI; t++)
        for (int r = 0; r <= SL_REASONING_HARMONY; r++) {
            struct sl_answer_style s = {(enum sl_tool_style)t, (enum sl_reasoning_style)r};
            int n = sl_answer_marks(s, marks);
            assert_true(t + r == 0 ? n == 0 : n > 0);
            for (int i = 0; i < n; i++) assert_true(strlen(marks[i]) > 4);
        }
}

/* ---- the models' own templates ----------------------------------------------------------------
 */

/* What the template writes for a call of an earlier turn is what the model would have written: it
 * must parse back. */
static void round_trip(const char *name)
{
    static const char asked[] =
        "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"tools\":%s}";
    static const char answered[] =
        "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"},{\"role\":\"assistant\","
        "\"content\":null,\"tool_calls\":[{\"id\":\"abcdefghi\",\"type\":\"function\",\"function\":"
        "{\"name\":\"f\",\"arguments\":\"{\\\"city\\\": \\\"R\\\"}\"}}]}],\"tools\":%s,"
        "\"add_generation_prompt\":false}";
    static const char *const ends[] = {"<|im_end|>", "</s>", "<|eot_id|>", "<｜end▁of▁sentence｜>"};
    static const char tools[] =
        "[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"description\":\"d\","
        "\"parameters\":{\"type\":\"object\",\"properties\":{\"city\":{\"type\":\"string\","
        "\"description\":\"c\"}},\"required\":[\"city\"]}}}]";
    char path[512], request[2048];
    struct sl_chat *c;
    struct sl_err err = {0};
    struct sl_buf text[2];
    snprintf(path, sizeof path, SLUICE_SHARED "/data/templates/%s.jinja", name);
    struct sl_chat_options o = {.template_file = path};
    if (sl_chat_open(NULL, &o, &c, &err)) fail_msg("%s", err.msg);
    for (int i = 0; i < 2; i++) {
        snprintf(request, sizeof request, i ? answered : asked, tools);
        json_t *j = json_loads(request, 0, NULL);
        assert_non_null(j);
        sl_buf_init(&text[i], 1 << 20);
        if (sl_chat_render(c, j, &text[i], &err)) fail_msg("%s: %s", name, err.msg);
        json_decref(j);
    }
    size_t same = 0;
    const char *prompt = sl_buf_str(&text[0]), *all = sl_buf_str(&text[1]);
    while (same < text[0].len && prompt[same] == all[same]) same++;
    for (size_t i = same; same < text[0].len && i-- > 0 && all[i] != '>';)
        if (all[i] == '<') same = i; /* two marks that begin alike */
    char *answer = strdup(all + same), *begin = strndup(all, same);
    for (size_t i = 0; i < SL_ARRAY_LEN(ends); i++) {
        char *end = strstr(answer, ends[i]);
        if (end) *end = 0;
    }
    struct setup s = {.style = sl_chat_style(c), .prompt = begin};
    json_t *offered = json_loads(tools, 0, NULL);
    struct log l;
    run(&s, offered, answer, strlen(answer), 1, &l);
    print_message("%s: %s %s: %s\n", name, sl_answer_tools_name(s.style.tools),
                  sl_answer_reasoning_name(s.style.reasoning), sl_buf_str(&l.out));
    assert_string_equal(sl_buf_str(&l.out), "T0(f {\"city\": \"R\"})");
    log_close(&l);
    json_decref(offered);
    free(answer);
    free(begin);
    for (int i = 0; i < 2; i++) sl_buf_close(&text[i]);
    sl_chat_close(c);
}

static void test_models(void **state)
{
    static const char *const names[] = {"DeepSeek-R1-Distill-Llama-8B",
                                        "DeepSeek-R1-Distill-Qwen-32B",
                                        "DeepSeek-V3.1",
                                        "Hermes-3-Llama-3.1-8B-tool_use",
                                        "Llama-3.1-8B-Instruct",
                                        "Llama-3.2-3B-Instruct",
                                        "Qwen2.5-7B-Instruct",
                                        "Mistral-Small-3.2-24B-Instruct-2506",
                                        "Qwen3-0.6B",
                                        "gpt-oss-120b"};
    (void)state;
    for (size_t i = 0; i < SL_ARRAY_LEN(names); i++) round_trip(names[i]);
}

/* `models`: the templates of real models, which need the shared data; 77 when they are absent. */
static int models(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_models)};
    FILE *f = fopen(SLUICE_SHARED "/data/templates/Qwen3-0.6B.jinja", "r");
    if (!f) return 77;
    fclose(f);
    return cmocka_run_group_tests(tests, NULL, NULL);
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "models") == 0) return models();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hermes),
        cmocka_unit_test(test_hermes_malformed),
        cmocka_unit_test(test_think),
        cmocka_unit_test(test_llama),
        cmocka_unit_test(test_deepseek),
        cmocka_unit_test(test_mistral),
        cmocka_unit_test(test_harmony),
        cmocka_unit_test(test_other_styles),
        cmocka_unit_test(test_limits_and_modes),
        cmocka_unit_test(test_endless_call),
        cmocka_unit_test(test_any_cut),
        cmocka_unit_test(test_style),
        cmocka_unit_test(test_force),
        cmocka_unit_test(test_marks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
