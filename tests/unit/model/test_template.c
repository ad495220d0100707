/* test_template.c - the chat-template interpreter against golden renderings, Jinja vectors and
 * hostile templates.
 *
 * The vectors of data/jinja and data/templates say what Jinja2 printed; hostile templates must end
 * in one error within the interpreter's own bounds (steps, depth, memory), so none of them is
 * timed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/sl_assert.h"
#include "model/template.h"

/* ---- helpers --------------------------------------------------------------------------------- */

enum stage { COMPILED, RENDERED, COMPILE_FAILED, RENDER_FAILED };

/* Compiles and renders; the text or the error's message goes to *out (caller frees). */
static enum stage render(const char *source, size_t n, const json_t *vars, char **out)
{
    struct sl_template *t;
    struct sl_err err = {0};
    struct sl_buf b;
    enum stage at = RENDERED;
    sl_buf_init(&b, SL_TEMPLATE_OUTPUT_MAX);
    if (sl_template_compile(source, n, &t, &err)) {
        assert_null(t);
        at = COMPILE_FAILED;
    } else if (sl_template_render(t, vars, &b, &err)) {
        at = RENDER_FAILED;
    }
    if (at != RENDERED) assert_int_equal(err.code, SL_EINPUT);
    *out = strdup(at == RENDERED ? sl_buf_str(&b) : err.msg);
    sl_buf_close(&b);
    sl_template_free(t);
    return at;
}

/* One vector: 1 when the result is the recorded one. */
static int check(const char *name, const char *source, size_t n, const json_t *vars,
                 const json_t *vector)
{
    char *got;
    const json_t *error = json_object_get(vector, "error");
    enum stage at = render(source, n, vars, &got);
    int ok;
    if (json_is_object(error)) {
        const char *kind = json_string_value(json_object_get(error, "kind"));
        ok = at == (strcmp(kind, "syntax") == 0 ? COMPILE_FAILED : RENDER_FAILED);
        if (strcmp(kind, "raise_exception") == 0)
            ok = ok && strcmp(got, json_string_value(json_object_get(error, "message"))) == 0;
    } else {
        ok = at == RENDERED &&
             strcmp(got, json_string_value(json_object_get(vector, "expected"))) == 0;
    }
    if (!ok) {
        char *want =
            json_dumps(error ? error : json_object_get(vector, "expected"), JSON_ENCODE_ANY);
        print_message("%s: got [%d] %s\n   instead of %s\n", name, at, got, want);
        free(want);
    }
    free(got);
    return ok;
}

/* Calls each() on every JSON line of a file; 0 when the file is absent. */
static int each_line(const char *path, void (*each)(const json_t *, void *), void *arg)
{
    FILE *f = fopen(path, "r");
    char *line = NULL;
    size_t cap = 0;
    if (!f) return 0;
    while (getline(&line, &cap, f) > 0) {
        json_error_t e;
        json_t *j = json_loads(line, 0, &e);
        assert_non_null(j);
        each(j, arg);
        json_decref(j);
    }
    free(line);
    fclose(f);
    return 1;
}

struct tally {
    const char *source;
    size_t n;
    int right, all;
};

/* ---- golden data ----------------------------------------------------------------------------- */

static void jinja_line(const json_t *j, void *arg)
{
    struct tally *t = arg;
    const json_t *source = json_object_get(j, "source"), *now = json_object_get(j, "now");
    json_t *vars = json_deep_copy(json_object_get(j, "context"));
    if (now) json_object_set(vars, "now", (json_t *)(uintptr_t)now);
    t->all++;
    t->right += check(json_string_value(json_object_get(j, "feature")), json_string_value(source),
                      json_string_length(source), vars, j);
    json_decref(vars);
}

static void jinja_vectors(void **state)
{
    struct tally t = {0};
    (void)state;
    if (!each_line(SLUICE_SHARED "/data/jinja/vectors.jsonl", jinja_line, &t))
        assert_true(each_line(SLUICE_GOLDEN "/data/jinja/vectors.jsonl", jinja_line, &t));
    print_message("jinja vectors: %d of %d\n", t.right, t.all);
    assert_int_equal(t.all, 109);
    assert_int_equal(t.right, t.all);
}

/* Every filter, test and method, and expressions put together by chance; see make_jinja.py. */
static void more_vectors(void **state)
{
    struct tally t = {0};
    (void)state;
    assert_true(each_line(SLUICE_GOLDEN "/data/jinja/more.jsonl", jinja_line, &t));
    print_message("more jinja vectors: %d of %d\n", t.right, t.all);
    assert_int_equal(t.all, 562);
    assert_int_equal(t.right, t.all);
}

static void template_line(const json_t *j, void *arg)
{
    struct tally *t = arg;
    static const char *const not_vars[] = {"template", "case", "expected", "error"};
    json_t *vars = json_deep_copy(j);
    for (size_t i = 0; i < SL_ARRAY_LEN(not_vars); i++) json_object_del(vars, not_vars[i]);
    t->all++;
    t->right += check(json_string_value(json_object_get(j, "case")), t->source, t->n, vars, j);
    json_decref(vars);
}

static void golden_templates(void **state)
{
    static const char *const names[] = {"DeepSeek-R1-Distill-Llama-8B",
                                        "DeepSeek-R1-Distill-Qwen-32B",
                                        "DeepSeek-V3.1",
                                        "Hermes-3-Llama-3.1-8B-tool_use",
                                        "Llama-3.1-8B-Instruct",
                                        "Llama-3.2-3B-Instruct",
                                        "Mistral-Small-3.2-24B-Instruct-2506",
                                        "Qwen2.5-7B-Instruct",
                                        "Qwen3-0.6B",
                                        "SmolLM2-135M-Instruct",
                                        "gpt-oss-120b"};
    int right = 0, all = 0;
    (void)state;
    for (size_t i = 0; i < SL_ARRAY_LEN(names); i++) {
        char path[512], *source = malloc(SL_TEMPLATE_SOURCE_MAX);
        assert_non_null(source);
        snprintf(path, sizeof path, SLUICE_SHARED "/data/templates/%s.jinja", names[i]);
        FILE *f = fopen(path, "r");
        if (!f) exit(77);
        struct tally t = {.source = source, .n = fread(source, 1, SL_TEMPLATE_SOURCE_MAX, f)};
        fclose(f);
        snprintf(path, sizeof path, SLUICE_SHARED "/data/templates/%s.jsonl", names[i]);
        assert_true(each_line(path, template_line, &t));
        print_message("%s: %d of %d\n", names[i], t.right, t.all);
        right += t.right;
        all += t.all;
        free(source);
    }
    assert_int_equal(all, 218);
    assert_int_equal(right, all);
}

/* ---- rows of our own: what the vectors leave out --------------------------------------------- */

static void expect(const char *source, const char *want)
{
    char *got;
    json_t *vars = json_pack("{s:[{s:s,s:i},{s:s,s:i},{s:s,s:i}],s:s}", "rows", "k", "b", "v", 2,
                             "k", "a", "v", 1, "k", "b", "v", 3, "now", "2024-02-29T03:04:05");
    assert_non_null(vars);
    enum stage at = render(source, strlen(source), vars, &got);
    if (at != RENDERED || strcmp(got, want) != 0)
        print_message("%s\n  got [%d] %s\n  instead of %s\n", source, at, got, want);
    assert_int_equal(at, RENDERED);
    assert_string_equal(got, want);
    free(got);
    json_decref(vars);
}

/* Expected texts are what Jinja2 3.1.6 prints in the same environment. */
static void more_features(void **state)
{
    static const char *const rows[][2] = {
        {"{% macro m(n) %}{{ caller(n) }}{{ caller(n + 1) }}{% endmacro %}{% call(x) m(2) %}<{{ x "
         "}}>{% endcall %}",
         "<2><3>"},
        {"{% macro v() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ v(1, 2, a=3) }}",
         "(1, 2){'a': 3}"},
        {"{% for x in [1, [2, [3]]] recursive %}{% if x is number %}{{ x }}@{{ loop.depth }} "
         "{% else %}{{ loop(x) }}{% endif %}{% endfor %}",
         "1@1 2@2 3@3 "},
        {"{% for x in 'abcd' %}{{ loop.cycle('o', 'e') }}{% endfor %}", "oeoe"},
        {"{% for x in [1, 1, 2] %}{{ loop.changed(x) }} {% endfor %}", "True False True "},
        {"{% filter upper %}a{{ 'b' }}{% endfilter %}{% with a = 1, b = 2 %}{{ a + b }}{% endwith "
         "%}",
         "AB3"},
        {"{% set t | upper %}x{% endset %}{{ t }}", "X"},
        {"{{ rows|map(attribute='v')|sum }}{{ rows|sum(attribute='v') }}", "66"},
        {"{{ rows|sort(attribute='k,v')|map(attribute='v')|join }}", "123"},
        {"{% for g in rows|groupby('k') %}{{ g.grouper }}:{{ g.list|length }} {% endfor %}",
         "a:1 b:2 "},
        {"{{ [1, 2, 3, 4, 5]|batch(2, 0)|list }}{{ [1, 2, 3]|slice(2)|list }}",
         "[[1, 2], [3, 4], [5, 0]][[1, 2], [3]]"},
        {"{{ 1 < 2 < 3 }}{{ 3 > 2 > 2 }}{{ -7 // 2 }}{{ -7 % 3 }}{{ 7 % -3 }}{{ -7.5 // 2 }}",
         "TrueFalse-42-2-4.0"},
        {"{{ 'a%sb%05.1f|%-4d|%x' % ('X', 2.25, 7, 255) }}", "aXb002.2|7   |ff"},
        {"{{ '{0}{x:>5}{y:,.2f}{z!r}'.format(1, x='a', y=12345.678, z='q') }}",
         "1    a12,345.68'q'"},
        {"{{ 1e16 }} {{ 123456789012345.6 }} {{ 0.0001 }} {{ 0.00001 }} {{ 1e100 }} {{ 5e-324 }}",
         "1e+16 123456789012345.6 0.0001 1e-05 1e+100 5e-324"},
        {"{{ 'it''s' }}{{ 'a' 'b' }}{{ '\\u00e9\\x41' }}", "itsabéA"},
        {"{{ 2.5|round }} {{ 2.675|round(2) }} {{ 42.55|round(1, 'floor') }} {{ 7|round }}",
         "2.0 2.67 42.5 7"},
        {"{{ 'hello big world'|truncate(9) }}|{{ 'a b'|urlencode }}|{{ '<a>'|e }}|{{ 'a b "
         "c'|wordcount }}",
         "hello...|a%20b|&lt;a&gt;|3"},
        {"{{ {'a': 1}.items() }}{{ {'a': 1}.keys()|list }}{{ [1]|map('string') is string }}",
         "dict_items([('a', 1)])['a']False"},
        {"{% if [] | selectattr('x') %}generators are true{% endif %}", "generators are true"},
        {"{{ [1, 2].append is defined }}{{ 'a-b_c'.partition('-') }}{{ 'x'.rjust(3, '.') }}",
         "False('a', '-', 'b_c')..x"},
        {"{{ ' a b  c '.rsplit(none, 1) }}{{ 'a,b,c'.rsplit(',', 1) }}{{ 'a\nb'.splitlines() }}",
         "[' a b', 'c']['a,b', 'c']['a', 'b']"},
        {"{{ strftime_now('%d %b %Y %j %a %H:%M %p %%') }}", "29 Feb 2024 060 Thu 03:04 AM %"},
        {"{{ none|selectattr('x')|list }}{{ [2, 1]|sort(attribute='x') }}{{ range(9)[1:8:2] }}",
         "[][2, 1]range(1, 8, 2)"},
        {"{{ now is defined }}{{ {'a b': 1, 'c': '&'}|urlencode }}", "Falsea+b=1&c=%26"},
        {"{{ range(3) }}{{ range(0, 9, 3)|list }}{{ (1,) }}{{ () }}{{ {1: 2, true: 3} }}",
         "range(0, 3)[0, 3, 6](1,)(){1: 3}"},
        {"{% for a in [1] %}{{ loop.previtem is defined }}{{ loop.nextitem is defined }}{% endfor "
         "%}",
         "FalseFalse"},
        {"{{ 'abc'[::-1] }}{{ 'abc'[-2:] }}{{ [1, 2, 3][5:] }}{{ 'abc'[9223372036854775807:] }}",
         "cbabc[]"},
        {"{{ 'x' is in ['x'] }}{{ 3 is divisibleby(3) }}{{ 'A' is upper }}{{ 2 is not odd }}",
         "TrueTrueTrueTrue"},
    };
    (void)state;
    for (size_t i = 0; i < SL_ARRAY_LEN(rows); i++) expect(rows[i][0], rows[i][1]);
}

/* ---- hostile templates ----------------------------------------------------------------------- */

static void expect_error(const char *source, size_t n, enum stage where, const char *what)
{
    char *got;
    json_t *vars = json_object();
    enum stage at = render(source, n, vars, &got);
    if (at != where || !strstr(got, what))
        print_message("%.60s\n  got [%d] %s\n  instead of %s\n", source, at, got, what);
    assert_int_equal(at, where);
    assert_non_null(strstr(got, what));
    free(got);
    json_decref(vars);
}

static void hostile(void **state)
{
    static const struct {
        const char *source;
        enum stage where;
        const char *what;
    } rows[] = {
        {"{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", RENDER_FAILED,
         "line 1: macros call each other"},
        {"{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}", RENDER_FAILED, "deep"},
        {"{{ range(10**12) }}", RENDER_FAILED, "too large"},
        {"{{ range(-9223372036854775807, 9223372036854775807)|list }}", RENDER_FAILED, "too large"},
        {"{% set ns = namespace(s='ab') %}{% for i in range(100) %}{% set ns.s = ns.s ~ ns.s %}{% "
         "endfor %}",
         RENDER_FAILED, "too large"},
        {"{% set ns = namespace(s=[1]) %}{% for i in range(100) %}{% set ns.s = ns.s + ns.s %}{% "
         "endfor %}",
         RENDER_FAILED, "too"},
        {"{% set ns = namespace(s=[]) %}{% for i in range(1000) %}{% set ns.s = [ns.s] %}{% endfor "
         "%}{{ ns.s }}",
         RENDER_FAILED, "nested too deeply"},
        {"{% set ns = namespace(s=[]) %}{% for i in range(1000) %}{% set ns.s = [ns.s] %}{% endfor "
         "%}"
         "{{ ns.s|tojson }}",
         RENDER_FAILED, "nested too deeply"},
        {"{% set ns = namespace(s=[]) %}{% for i in range(1000) %}{% set ns.s = [ns.s] %}{% endfor "
         "%}"
         "{{ ns.s == [ns.s] }}",
         RENDER_FAILED, "nested too deeply"},
        {"{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s] %}{% "
         "endfor %}{{ ns.s }}",
         RENDER_FAILED, "too"},
        {"{% set ns = namespace() %}{% set ns.me = ns %}{{ ns }}", RENDER_FAILED,
         "nested too deeply"},
        {"{% for a in range(99999) %}{% for b in range(99999) %}{{ b }}{% endfor %}{% endfor %}",
         RENDER_FAILED, "too"},
        /* long strings are worked on again and again */
        {"{% set s = ' ' * 5000000 %}{% for i in range(99999) %}{% set q = s.strip() %}{% endfor "
         "%}",
         RENDER_FAILED, "too long"},
        {"{% set s = 'a' * 5000000 %}{% for i in range(99999) %}{% set q = s.upper() %}{% endfor "
         "%}",
         RENDER_FAILED, "too long"},
        {"{% set s = 'a' * 5000000 %}{% for i in range(99999) %}{% set q = s.removeprefix(s) %}"
         "{% endfor %}",
         RENDER_FAILED, "too long"},
        {"{% set d = {'a' * 5000000: 1} %}{% set k = 'a' * 5000000 %}{% for i in range(99999) %}"
         "{{ d[k] }}{% endfor %}",
         RENDER_FAILED, "too long"},
        {"{% set s = 'a' * 5000000 %}{% for i in range(99999) %}{% set q = s.count('ab') %}"
         "{% endfor %}",
         RENDER_FAILED, "too long"},
        {"{% set k = 'a' * 100000 %}{% set l = ['a' * 99999 ~ 'b'] * 1000 %}"
         "{% for i in range(9999) %}{{ k in l }}{% endfor %}",
         RENDER_FAILED, "too long"},
        {"{{ 'a' * 10**12 }}", RENDER_FAILED, "too large"},
        {"{{ [0] * 10**12 }}", RENDER_FAILED, "too large"},
        {"{{ 'a'|center(10**12) }}", RENDER_FAILED, "too"},
        {"{{ '%n%n%n' % 1 }}", RENDER_FAILED, "unsupported format character 'n'"},
        {"{{ '%s%s' % 'x' }}", RENDER_FAILED, "not enough values"},
        {"{{ '%999999999999d' % 1 }}", RENDER_FAILED, "too large"},
        {"{{ '{:999999999}'.format(1) }}", RENDER_FAILED, "too large"},
        {"{{ '{0.__class__}'.format('x') }}", RENDERED, ""},
        {"{{ 'x'.__class__.__mro__ }}", RENDER_FAILED, "'str' has no '__class__'"},
        {"{{ 9223372036854775807 + 1 }}", RENDER_FAILED, "64 bits"},
        {"{{ 2 ** 64 }}", RENDER_FAILED, "64 bits"},
        {"{{ (-9223372036854775807 - 1) // -1 }}", RENDER_FAILED, "64 bits"},
        {"{{ 99999999999999999999 }}", COMPILE_FAILED, "64 bits"},
        {"{{ 1 // 0 }}", RENDER_FAILED, "division by zero"},
        {"{{ 'abc'[::0] }}", RENDER_FAILED, "step cannot be zero"},
        {"{{ 'abc'[::-9223372036854775807] }}", RENDERED, "c"},
        {"{{ strftime_now('%' * 1000000) }}", RENDERED, "%"},
        {"{{ x|nosuch }}", RENDER_FAILED, "there is no filter 'nosuch'"},
        {"\n\n{{ x.y }}", RENDER_FAILED, "line 3: 'x' is undefined"},
        {"a\n{% if x %}\nb", COMPILE_FAILED, "the 'if' block opened on line 2 is not closed"},
        {"{% for x in y %}{% endif %}", COMPILE_FAILED, "unknown tag"},
        {"{{ x", COMPILE_FAILED, "'}}' is missing"},
        {"{# x", COMPILE_FAILED, "'#}' is missing"},
        {"{% raw %}x", COMPILE_FAILED, "endraw"},
        {"{{ 'x }}", COMPILE_FAILED, "string is not closed"},
        {"{{ ( ] }}", COMPILE_FAILED, "bracket"},
        {"{% break %}", COMPILE_FAILED, "inside a loop"},
        {"{% include 'x' %}", COMPILE_FAILED, "unknown tag"},
        {"{{ raise_exception('a\nb') }}", RENDER_FAILED, "a b"},
    };
    (void)state;
    for (size_t i = 0; i < SL_ARRAY_LEN(rows); i++)
        expect_error(rows[i].source, strlen(rows[i].source), rows[i].where, rows[i].what);
}

/* before + n times middle + after */
static char *repeated(const char *before, const char *middle, size_t n, const char *after)
{
    size_t b = strlen(before), m = strlen(middle), a = strlen(after);
    char *s = malloc(b + n * m + a + 1);
    assert_non_null(s);
    memcpy(s, before, b);
    for (size_t i = 0; i < n; i++) memcpy(s + b + i * m, middle, m);
    memcpy(s + b + n * m, after, a + 1);
    return s;
}

static void hostile_sizes(void **state)
{
    static const struct {
        const char *before, *middle, *after;
        size_t n;
        enum stage where;
        const char *what;
    } rows[] = {
        {"{{ ", "(", "", 10000, COMPILE_FAILED, "nested too deeply"},
        {"{{ ", "(", "1", 900, COMPILE_FAILED, "missing"},
        {"{{ ", "[[[[[[[[[[", " }}", 90, COMPILE_FAILED, "bracket"},
        {"{{ ", "-", "1 }}", 10000, COMPILE_FAILED, "deep"},
        {"{{ ", "not ", "1 }}", 10000, COMPILE_FAILED, "deep"},
        {"", "{% if 1 %}", "", 10000, COMPILE_FAILED, "deep"},
        {"{{ 1 ", "+ 1 ", "}}", 100000, RENDER_FAILED, "nested too deeply"},
        {"{{ 'x'", "|upper", "}}", 100000, RENDER_FAILED, "nested too deeply"},
        {"{{ x", ".y", "}}", 100000, RENDER_FAILED, "nested too deeply"},
        {"{{ 'x'", " ~ 'x'", "}}", 100000, RENDERED, "xxx"},
        {"{% if 0 %}", "{% elif 0 %}", "{% else %}y{% endif %}", 50000, RENDERED, "y"},
        {"", "x", "", SL_TEMPLATE_SOURCE_MAX, RENDERED, "xxx"},
        {"", "x", "y", SL_TEMPLATE_SOURCE_MAX, COMPILE_FAILED, "more than the maximum"},
        {"", "{{a}}", "", 200000, RENDERED, ""},
        {"", "{%", "", 500000, COMPILE_FAILED, "line 1"},
    };
    (void)state;
    for (size_t i = 0; i < SL_ARRAY_LEN(rows); i++) {
        char *s = repeated(rows[i].before, rows[i].middle, rows[i].n, rows[i].after);
        expect_error(s, strlen(s), rows[i].where, rows[i].what);
        free(s);
    }
}

static void deep_json(void **state)
{
    char *got;
    json_t *v = json_array(), *vars = json_object();
    (void)state;
    for (int i = 0; i < 1000; i++) v = json_pack("[o]", v);
    json_object_set_new(vars, "v", v);
    assert_int_equal(render("{{ v }}", 7, vars, &got), RENDER_FAILED);
    assert_non_null(strstr(got, "nested too deeply"));
    free(got);
    json_decref(vars);
}

/* A caller's buffer that is too small is an error, and nothing is appended. */
static void small_output(void **state)
{
    struct sl_template *t;
    struct sl_buf b;
    struct sl_err err = {0};
    json_t *vars = json_object();
    (void)state;
    sl_buf_init(&b, 4);
    assert_int_equal(sl_template_compile("12345", 5, &t, &err), 0);
    assert_int_equal(sl_template_render(t, vars, &b, &err), SL_EINPUT);
    assert_int_equal(b.len, 0);
    sl_buf_close(&b);
    sl_template_free(t);
    json_decref(vars);
}

/* With the argument `models` the templates of real models, skipped without the shared data; else
 * all that needs none. */
int main(int argc, char **argv)
{
    const struct CMUnitTest own[] = {
        cmocka_unit_test(more_features), cmocka_unit_test(hostile),
        cmocka_unit_test(hostile_sizes), cmocka_unit_test(deep_json),
        cmocka_unit_test(small_output),  cmocka_unit_test(jinja_vectors),
        cmocka_unit_test(more_vectors),
    };
    const struct CMUnitTest models[] = {cmocka_unit_test(golden_templates)};
    if (argc > 1 && strcmp(argv[1], "models") == 0)
        return cmocka_run_group_tests(models, NULL, NULL);
    return cmocka_run_group_tests(own, NULL, NULL);
}
