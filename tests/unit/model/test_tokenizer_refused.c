/* test_tokenizer_refused.c - tokenizer.json and tokenizer.model that are damaged, hostile or beyond
 * what is known: one line of error each, that says what and where; and texts on which an expression
 * of a file backtracks without end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/sl_assert.h"
#include "model/tokenizer.h"

#define VOCAB "{\"a\":0,\"b\":1,\"ab\":2,\"<unk>\":3,\"c\":4}"
#define BPE "{\"type\":\"BPE\",\"vocab\":" VOCAB ",\"merges\":[\"a b\"]}"

static int open_parts(const char *parts, struct sl_tokenizer **t, struct sl_err *err)
{
    json_error_t je;
    char *text = malloc(strlen(parts) + 16);
    sprintf(text, "{%s}", parts);
    json_t *v = json_loads(text, JSON_ALLOW_NUL, &je);
    if (!v) fail_msg("%s: %s", text, je.text);
    struct sl_tokenizer_json in = {.tokenizer = v};
    int r = sl_tokenizer_open_json("tiny/tokenizer.json", &in, t, err);
    json_decref(v);
    free(text);
    return r;
}

static void refuse(const char *parts, int code, const char *part)
{
    struct sl_tokenizer *t = NULL;
    struct sl_err err = {0};
    int r = open_parts(parts, &t, &err);
    if (r != code) fail_msg("%s: %d (%s), not %d", parts, r, err.msg, code);
    assert_null(t);
    if (!strstr(err.msg, part) || !strstr(err.msg, "tiny/tokenizer.json") || strchr(err.msg, '\n'))
        fail_msg("'%s' lacks '%s'", err.msg, part);
}

static struct sl_tokenizer *accept(const char *parts)
{
    struct sl_tokenizer *t;
    struct sl_err err = {0};
    if (open_parts(parts, &t, &err) != 0) fail_msg("%s: %s", parts, err.msg);
    return t;
}

static void test_models(void **state)
{
    (void)state;
    sl_tokenizer_close(accept("\"model\":" BPE));
    refuse("", SL_EINPUT, "model is missing");
    refuse("\"model\":[]", SL_EINPUT, "model is missing");
    refuse("\"model\":{\"type\":\"BPE\"}", SL_EINPUT, "vocab is missing");
    refuse("\"model\":{\"type\":\"BPE\",\"vocab\":{},\"merges\":[]}", SL_EINPUT, "vocab is empty");
    refuse("\"model\":{\"type\":\"BPE\",\"vocab\":" VOCAB "}", SL_EINPUT, "merges is missing");
    refuse("\"model\":{\"type\":\"Marvin\",\"vocab\":" VOCAB "}", SL_EUNSUPPORTED, "'Marvin'");
    refuse("\"model\":{\"type\":\"Unigram\",\"vocab\":" VOCAB "}", SL_EINPUT, "another kind");
    refuse("\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\"]]}", SL_EINPUT, "[text, score]");
    refuse("\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",0]],\"unk_id\":1}", SL_EINPUT,
           "unk_id");
    refuse("\"model\":{\"type\":\"WordLevel\",\"vocab\":" VOCAB ",\"unk_token\":\"x\"}", SL_EINPUT,
           "unk_token is no token");
    static const char *const merges[][2] = {
        {"\"a x\"", "right token of 1"}, {"\"x a\"", "left token of 1"},
        {"\"b a\"", "result of 1"},      {"\"ab\"", "1 is not two tokens"},
        {"\"a b c\"", "not two tokens"}, {"[\"a\"]", "not two tokens"},
        {"[\"a\",1]", "not two tokens"}, {"7", "not two tokens"},
        {"[\"a\",\"\"]", "right token"},
    };
    for (size_t i = 0; i < SL_ARRAY_LEN(merges); i++) {
        char parts[256];
        snprintf(parts, sizeof parts,
                 "\"model\":{\"type\":\"BPE\",\"vocab\":" VOCAB ",\"merges\":[\"a b\",%s]}",
                 merges[i][0]);
        refuse(parts, SL_EINPUT, merges[i][1]);
    }
}

/* Hundreds of words and no merges: such a file has lost them. */
static void test_lost_merges(void **state)
{
    (void)state;
    char *parts = malloc(1 << 16);
    size_t n = (size_t)sprintf(parts, "\"model\":{\"type\":\"BPE\",\"merges\":[],\"vocab\":{");
    for (int i = 0; i < 300; i++)
        n += (size_t)sprintf(parts + n, "%s\"w%d\":%d", i ? "," : "", i, i);
    sprintf(parts + n, "}}");
    refuse(parts, SL_EINPUT, "merges is empty");
    free(parts);
}

static void test_ids(void **state)
{
    (void)state;
    static const char *const vocabs[][2] = {
        {"{\"a\":0,\"b\":0}", "id 0 belongs to two"},
        {"{\"a\":-1}", "id -1 is out of range"},
        {"{\"a\":16777216}", "id 16777216 is out of range"},
        {"{\"a\":9223372036854775807}", "out of range"},
        {"{\"a\":70000}", "out of range for 1"},
        {"{\"a\":0.5}", "an id that is none"},
        {"{\"a\":\"0\"}", "an id that is none"},
    };
    char parts[512];
    for (size_t i = 0; i < SL_ARRAY_LEN(vocabs); i++) {
        snprintf(parts, sizeof parts, "\"model\":{\"type\":\"BPE\",\"vocab\":%s,\"merges\":[]}",
                 vocabs[i][0]);
        refuse(parts, SL_EINPUT, vocabs[i][1]);
    }
    static const char *const added[][2] = {
        {"{}", "added_tokens is not an array"},
        {"[{\"id\":9}]", "no content or id"},
        {"[{\"content\":\"x\"}]", "no content or id"},
        {"[{\"id\":0,\"content\":\"x\"}]", "id 0 belongs to two"},
        {"[{\"id\":-2,\"content\":\"x\"}]", "id is not a number in range"},
        {"[{\"id\":99999,\"content\":\"x\"}]", "out of range"},
        {"[{\"id\":9,\"content\":\"x\",\"special\":1}]", "special is not true or false"},
        {"[{\"id\":9,\"content\":7}]", "content is not a string"},
        {"[7]", "no content or id"},
    };
    for (size_t i = 0; i < SL_ARRAY_LEN(added); i++) {
        snprintf(parts, sizeof parts, "\"model\":" BPE ",\"added_tokens\":%s", added[i][0]);
        refuse(parts, SL_EINPUT, added[i][1]);
    }
}

static void test_parts(void **state)
{
    (void)state;
    static const struct {
        const char *key, *value;
        int code;
        const char *part;
    } rows[] = {
        {"normalizer", "{\"type\":\"Marvin\"}", SL_EUNSUPPORTED, "normalizer 'Marvin'"},
        {"normalizer", "{\"type\":\"Marvin\"}", SL_EUNSUPPORTED, "NFKC"},
        {"normalizer", "{}", SL_EINPUT, "normalizer has no type"},
        {"normalizer", "7", SL_EINPUT, "normalizer has no type"},
        {"normalizer", "{\"type\":\"Sequence\"}", SL_EINPUT, "without members"},
        {"normalizer", "{\"type\":\"Replace\",\"content\":\"\"}", SL_EINPUT, "has no pattern"},
        {"normalizer", "{\"type\":\"Prepend\",\"prepend\":1}", SL_EINPUT, "not a string"},
        {"normalizer", "{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"AAAA\"}", SL_EINPUT,
         "character map is damaged"},
        {"normalizer", "{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"????\"}", SL_EINPUT,
         "not base64"},
        {"pre_tokenizer", "{\"type\":\"UnicodeScripts\"}", SL_EUNSUPPORTED, "'UnicodeScripts'"},
        {"pre_tokenizer", "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(a\"}}", SL_EUNSUPPORTED,
         "'(a' cannot be used: a group has no end"},
        {"pre_tokenizer", "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[a\"}}", SL_EUNSUPPORTED,
         "a class has no end"},
        {"pre_tokenizer", "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\p{Marvin}\"}}",
         SL_EUNSUPPORTED, "Marvin"},
        {"pre_tokenizer", "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(?~a)\"}}", SL_EUNSUPPORTED,
         "absent operators"},
        {"pre_tokenizer", "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"+\"}}", SL_EUNSUPPORTED,
         "cannot be used"},
        {"pre_tokenizer",
         "{\"type\":\"Split\",\"pattern\":{\"String\":\"a\"},\"behavior\":\"Eaten\"}", SL_EINPUT,
         "a behavior"},
        {"pre_tokenizer", "{\"type\":\"Metaspace\",\"prepend_scheme\":\"last\"}", SL_EINPUT,
         "prepend_scheme"},
        {"decoder", "{\"type\":\"CTC\"}", SL_EUNSUPPORTED, "decoder 'CTC'"},
        {"decoder", "{\"type\":\"Strip\",\"content\":\" \",\"start\":0,\"stop\":1}",
         SL_EUNSUPPORTED, "cannot be streamed"},
        {"post_processor", "{\"type\":\"Marvin\"}", SL_EUNSUPPORTED, "post_processor 'Marvin'"},
        {"post_processor", "{\"type\":\"TemplateProcessing\",\"single\":[]}", SL_EINPUT,
         "has no text"},
        {"post_processor",
         "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"x\"}},"
         "{\"Sequence\":{\"id\":\"A\"}}]}",
         SL_EINPUT, "has no ids"},
        {"post_processor", "{\"type\":\"BertProcessing\",\"cls\":[\"a\",77],\"sep\":[\"a\",0]}",
         SL_EINPUT, "not in the vocabulary"},
    };
    for (size_t i = 0; i < SL_ARRAY_LEN(rows); i++) {
        char parts[1024];
        snprintf(parts, sizeof parts, "\"model\":" BPE ",\"%s\":%s", rows[i].key, rows[i].value);
        refuse(parts, rows[i].code, rows[i].part);
    }
}

/* Sequences inside each other, and too many steps in one. */
static void test_depth(void **state)
{
    (void)state;
    static const char *const keys[][2] = {{"normalizer", "normalizers"},
                                          {"pre_tokenizer", "pretokenizers"},
                                          {"decoder", "decoders"},
                                          {"post_processor", "processors"}};
    char *parts = malloc(1 << 16);
    for (size_t k = 0; k < SL_ARRAY_LEN(keys); k++) {
        size_t n = (size_t)sprintf(parts, "\"model\":" BPE ",\"%s\":", keys[k][0]);
        for (int i = 0; i < 500; i++)
            n += (size_t)sprintf(parts + n, "{\"type\":\"Sequence\",\"%s\":[", keys[k][1]);
        n += (size_t)sprintf(parts + n, "null");
        for (int i = 0; i < 500; i++) n += (size_t)sprintf(parts + n, "]}");
        refuse(parts, SL_EINPUT, "nested too deeply");
        if (k == 3) break;
        static const char *const steps[] = {"NFC", "BertPreTokenizer", "ByteFallback"};
        n = (size_t)sprintf(parts, "\"model\":" BPE ",\"%s\":{\"type\":\"Sequence\",\"%s\":[",
                            keys[k][0], keys[k][1]);
        for (int i = 0; i < 40; i++)
            n += (size_t)sprintf(parts + n, "%s{\"type\":\"%s\"}", i ? "," : "", steps[k]);
        sprintf(parts + n, "]}");
        refuse(parts, SL_EINPUT, "too many steps");
    }
    free(parts);
}

/* Expressions that would run for ages on some text: an error, and the ids as they were. */
static void test_backtracking(void **state)
{
    (void)state;
    static const char *const patterns[] = {"(a+)+[xy]", "(?:a|a)*[bc]", "(a*)*\\\\d",
                                           "(?:(a|aa)+)+[yz]"};
    char text[4096];
    memset(text, 'a', sizeof text);
    for (size_t i = 0; i < SL_ARRAY_LEN(patterns); i++) {
        char parts[512];
        struct sl_err err = {0};
        struct sl_ids ids = {0};
        snprintf(parts, sizeof parts,
                 "\"model\":" BPE ",\"pre_tokenizer\":{\"type\":\"Split\",\"behavior\":"
                 "\"Isolated\",\"pattern\":{\"Regex\":\"%s\"}}",
                 patterns[i]);
        struct sl_tokenizer *t = accept(parts);
        assert_int_equal(sl_tokenizer_encode(t, "ab", 2, 0, &ids, &err), 0);
        size_t before = ids.len;
        assert_int_equal(sl_tokenizer_encode(t, text, sizeof text, 0, &ids, &err), SL_ELIMIT);
        assert_int_equal(ids.len, before);
        if (!strstr(err.msg, "backtracks without end")) fail_msg("%s", err.msg);
        free(ids.data);
        sl_tokenizer_close(t);
    }
}

/* A normalizer may make a text larger, up to a limit. */
static void test_swelling(void **state)
{
    (void)state;
    static char parts[1 << 20], text[1 << 12];
    size_t n = (size_t)sprintf(parts, "\"model\":" BPE ",\"normalizer\":{\"type\":\"Replace\","
                                      "\"pattern\":{\"String\":\"a\"},\"content\":\"");
    memset(parts + n, 'b', 1 << 19);
    sprintf(parts + n + (1 << 19), "\"}");
    memset(text, 'a', (1 << 12) - 1);
    struct sl_tokenizer *t = accept(parts);
    struct sl_ids ids = {0};
    struct sl_err err = {0};
    assert_int_equal(sl_tokenizer_encode(t, text, (1 << 12) - 1, 0, &ids, &err), SL_ELIMIT);
    assert_true(ids.len == 0 && strstr(err.msg, "after normalization"));
    free(ids.data);
    sl_tokenizer_close(t);
}

static void refuse_model(const void *data, size_t n, int code, const char *part)
{
    struct sl_tokenizer *t = NULL;
    struct sl_err err = {0};
    assert_int_equal(sl_tokenizer_open_spm("tiny/tokenizer.model", data, n, NULL, &t, &err), code);
    assert_null(t);
    if (!strstr(err.msg, part) || !strstr(err.msg, "tiny/tokenizer.model"))
        fail_msg("'%s' lacks '%s'", err.msg, part);
}

#define BYTES(s) s, sizeof(s) - 1

static void test_sentencepiece(void **state)
{
    (void)state;
    refuse_model(BYTES(""), SL_EINPUT, "empty");
    refuse_model(BYTES("\x0a"), SL_EINPUT, "no SentencePiece");
    refuse_model(BYTES("\x0a\x7f"), SL_EINPUT, "no SentencePiece");
    refuse_model(BYTES("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), SL_EINPUT, "no Sentence");
    refuse_model(BYTES("\x0b"), SL_EINPUT, "no SentencePiece"); /* a group */
    refuse_model(BYTES("\x12\x00"), SL_EINPUT, "no pieces");
    refuse_model(BYTES("\x0a\x05\x0a\x01"
                       "a\x18\x09"),
                 SL_EINPUT, "a type that is not known");
    refuse_model(BYTES("\x0a\x08\x0a\x01"
                       "a\x15\x00\x00\xc0\x7f"),
                 SL_EINPUT, "a score that is no number");
    refuse_model(BYTES("\x0a\x03\x0a\x01"
                       "a\x12\x02\x18\x04"),
                 SL_EUNSUPPORTED, "of kind 4");
    refuse_model(BYTES("\x0a\x03\x0a\x01"
                       "a\x1a\x02\x28\x00"),
                 SL_EUNSUPPORTED, "not escaped");
    refuse_model(BYTES("\x0a\x03\x0a\x01"
                       "a\x1a\x05\x12\x03"
                       "abc"),
                 SL_EINPUT, "character map is damaged");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_models),   cmocka_unit_test(test_lost_merges),
        cmocka_unit_test(test_ids),      cmocka_unit_test(test_parts),
        cmocka_unit_test(test_depth),    cmocka_unit_test(test_backtracking),
        cmocka_unit_test(test_swelling), cmocka_unit_test(test_sentencepiece),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
