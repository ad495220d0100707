/* tok_json_part.c - a part of tokenizer.json: one component or a Sequence of them. A row says which
 * function reads which type; a type without a row is refused by its name, since text would be
 * encoded wrongly without it. */
#include "model/tok_json.h"

#include <stdio.h>
#include <string.h>

#include "base/sl_assert.h"
#include "base/text.h"

#define DEPTH_MAX 8 /* sequences inside each other */

static int unknown(const struct sl_tok_source *in, const struct sl_tok_part *part, const char *type)
{
    char known[320] = "", shown[3 * 32 + 1];
    size_t w = 0;
    for (size_t i = 0; i < part->n_rows && w + 24 < sizeof known; i++)
        w += (size_t)snprintf(known + w, sizeof known - w, " %.20s", part->rows[i].type);
    shown[sl_utf8_scrub(type, sl_utf8_whole(type, SL_MIN(strlen(type), (size_t)32)), shown)] = 0;
    return sl_err_set(in->err, SL_EUNSUPPORTED,
                      "%s: %s '%s' is not known here, and text would be encoded wrongly without it "
                      "(known: Sequence%s)",
                      in->name, part->name, shown, known);
}

/* Reads o and, for a sequence, its members; the recursion ends at DEPTH_MAX. */
int sl_tok_json_part(const struct sl_tok_source *in, const struct sl_tok_part *part,
                     const json_t *o, int depth)
{
    if (!o || json_is_null(o)) return 0;
    const char *type = json_string_value(json_object_get(o, "type"));
    if (!type) return sl_tok_json_bad(in, part->name, "has no type");
    if (strcmp(type, "Sequence") == 0) {
        const json_t *members = json_object_get(o, part->members);
        int r = 0;
        if (depth == DEPTH_MAX) return sl_tok_json_bad(in, part->name, "is nested too deeply");
        if (!json_is_array(members))
            return sl_tok_json_bad(in, part->name, "is a Sequence without members");
        for (size_t i = 0; i < json_array_size(members) && r == 0; i++)
            r = sl_tok_json_part(in, part, json_array_get(members, i), depth + 1);
        return r;
    }
    for (size_t i = 0; i < part->n_rows; i++) {
        if (strcmp(type, part->rows[i].type) != 0) continue;
        char place[64];
        snprintf(place, sizeof place, "%s %s", part->name, type);
        return part->rows[i].read(in, o, place);
    }
    return unknown(in, part, type);
}

/* {"String": ...} or {"Regex": ...}. */
int sl_tok_json_pattern(const struct sl_tok_source *in, const json_t *o, const char *place,
                        const char **text, size_t *text_n, struct sl_tok_regex **regex)
{
    const json_t *p = json_object_get(o, "pattern");
    const json_t *s = json_object_get(p, "String"), *re = json_object_get(p, "Regex");
    if (json_is_string(p)) s = p; /* as some write it */
    if (json_is_string(s)) {
        *text = json_string_value(s);
        *text_n = json_string_length(s);
        return 0;
    }
    if (!json_is_string(re)) return sl_tok_json_bad(in, place, "has no pattern");
    char where[128];
    snprintf(where, sizeof where, "%.80s: %.40s", in->name, place);
    return sl_tok_regex_open(json_string_value(re), json_string_length(re), 0, where, regex,
                             in->err);
}

/* How a Metaspace puts its sign before words. */
int sl_tok_json_scheme(const struct sl_tok_source *in, const json_t *o, const char *place,
                       enum sl_tok_scheme *out)
{
    static const char *const names[] = {"always", "first", "never"};
    int prefix = 1;
    const char *s = NULL;
    size_t n;
    int r = sl_tok_json_bool(in, o, place, "add_prefix_space", &prefix); /* the older spelling */
    if (r == 0) r = sl_tok_json_text(in, o, place, "prepend_scheme", &s, &n);
    *out = prefix ? SL_TOK_PREPEND_ALWAYS : SL_TOK_PREPEND_NEVER;
    if (r != 0 || !s) return r;
    for (int i = 0; i < 3; i++) {
        if (strcmp(s, names[i]) != 0) continue;
        *out = (enum sl_tok_scheme)i;
        return 0;
    }
    return sl_tok_json_bad(in, place, "has a prepend_scheme that is not known here");
}
