/* test_conf.c - command lines: every form that is accepted, every one that is refused with a hint.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/conf.h"
#include "base/sl_assert.h"

struct settings {
    int chat, cache;
    int64_t n;
    double temp;
    const char *prompt;
    struct sl_conf_list lora;
};

static const struct sl_conf_row rows[] = {
    {.type = SL_CONF_HEADING, .names = "", .help = "Answers"},
    {SL_CONF_FLAG, "--chat", NULL, offsetof(struct settings, chat), "apply the template", 0, 0},
    {SL_CONF_FLAG, "-c --cache", NULL, offsetof(struct settings, cache), "keep", 0, 0},
    {SL_CONF_INT, "-n --predict --n-predict", "N", offsetof(struct settings, n), "tokens", -1,
     1000},
    {SL_CONF_FLOAT, "--temp", "T", offsetof(struct settings, temp), "temperature", 0, 0},
    {SL_CONF_STRING, "-p --prompt", "TEXT", offsetof(struct settings, prompt), "the text", 0, 0},
    {SL_CONF_LIST, "--lora", "NAME=PATH", offsetof(struct settings, lora), "adapters", 0, 0},
};

struct outcome {
    struct settings s;
    const char *words[2];
    int n_words, help, r;
    struct sl_err err;
};

static struct outcome parse(const char *line)
{
    static char copy[512];
    static char *argv[32];
    int argc = 1;
    struct outcome o = {.s = {.cache = 1, .n = 7, .temp = 0.5}};
    snprintf(copy, sizeof copy, "%s", line);
    argv[0] = "sluice";
    for (char *t = strtok(copy, " "); t; t = strtok(NULL, " ")) argv[argc++] = t;
    o.r = sl_conf_parse(rows, SL_ARRAY_LEN(rows), &o.s, argc, argv, o.words, 2, &o.n_words, &o.help,
                        &o.err);
    return o;
}

static void accepts(void **state)
{
    (void)state;
    struct outcome o = parse("");
    assert_int_equal(o.r, 0);
    assert_true(o.s.n == 7 && o.s.temp == 0.5 && o.s.cache == 1 && o.s.chat == 0 && !o.s.prompt &&
                o.n_words == 0);
    o = parse("one -n 5 --temp=1.25 --no-cache --chat -p hi two");
    assert_int_equal(o.r, 0);
    assert_true(o.s.n == 5 && o.s.temp == 1.25 && o.s.cache == 0 && o.s.chat == 1);
    assert_string_equal(o.s.prompt, "hi");
    assert_int_equal(o.n_words, 2);
    assert_string_equal(o.words[0], "one");
    assert_string_equal(o.words[1], "two");
    o = parse("--n-predict -1 --prompt=a=b");
    assert_true(o.r == 0 && o.s.n == -1);
    assert_string_equal(o.s.prompt, "a=b");
    o = parse("--predict=1000 - -- --chat");
    assert_true(o.r == 0 && o.s.n == 1000 && o.s.chat == 0 && o.n_words == 2);
    assert_string_equal(o.words[0], "-");
    assert_string_equal(o.words[1], "--chat");
    o = parse("--lora a=b --lora=c");
    assert_true(o.r == 0 && o.s.lora.n == 2);
    assert_string_equal(o.s.lora.v[0], "a=b");
    assert_string_equal(o.s.lora.v[1], "c");
    o = parse("--prompt=");
    assert_int_equal(o.r, 0);
    assert_string_equal(o.s.prompt, "");
    o = parse("-n 3 -h");
    assert_true(o.r == 0 && o.help && o.s.n == 3);
}

static void refuses(void **state)
{
    (void)state;
    static const struct {
        const char *line, *says;
    } bad[] = {
        {"--tmp 1", "unknown option --tmp; did you mean --temp?"},
        {"--promt=x", "unknown option --promt; did you mean --prompt?"},
        {"--frobnicate-everything", "unknown option --frobnicate-everything; --help lists them"},
        {"--no-temp", "unknown option --no-temp"},
        {"-n", "-n needs a value (N)"},
        {"-n five", "-n wants a number, not 'five'"},
        {"-n 5x", "wants a number"},
        {"-n 1.5", "wants a number"},
        {"--predict=", "wants a number"},
        {"-n 1001", "must lie between -1 and 1000"},
        {"-n -2", "must lie between"},
        {"-n 99999999999999999999", "wants a number"},
        {"--temp nan", "wants a number"},
        {"--temp inf", "wants a number"},
        {"--chat=1", "--chat takes no value"},
        {"one two three", "unexpected argument 'three'"},
    };
    for (size_t i = 0; i < SL_ARRAY_LEN(bad); i++) {
        struct outcome o = parse(bad[i].line);
        if (o.r != SL_EUSAGE || !strstr(o.err.msg, bad[i].says))
            fail_msg("%s: %d '%s'", bad[i].line, o.r, o.err.msg);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(accepts), cmocka_unit_test(refuses)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
