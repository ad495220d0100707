/* api_tools.c - see api_tools.h. */
#include "coordinator/api_tools.h"

#include <string.h>

#include "base/env.h"
#include "base/sl_assert.h"
#include "model/chat.h"
#include "model/tokenizer.h"

_Static_assert(SL_MARKS_MAX >= SL_ANSWER_MARKS_MAX, "every mark may be a special token");

static struct sl_answer_style style_of(const struct sl_service *s)
{
    const struct sl_chat *c = sl_service_chat(s);
    return c ? sl_chat_style(c) : (struct sl_answer_style){SL_TOOLS_NONE, SL_REASONING_NONE};
}

int sl_api_force(struct sl_service *s, const struct sl_api_tools *t, struct sl_buf *prompt,
                 struct sl_buf *forced, struct sl_api_error *e)
{
    struct sl_err err = {0};
    if (t->choice != SL_CHOOSE_ANY && t->choice != SL_CHOOSE_NAMED) return 0;
    int rc = sl_answer_force(style_of(s), sl_chat_template(sl_service_chat(s), 1), t->name,
                             sl_buf_str(prompt), prompt->len, forced, &err);
    if (rc == SL_EUNSUPPORTED) return sl_api_bad(e, "tool_choice", "%s", err.msg);
    if (rc == 0) rc = sl_buf_add(prompt, sl_buf_str(forced), forced->len);
    return rc ? sl_api_from_code(e, rc, NULL) : 0;
}

int sl_api_answer_open(struct sl_service *s, const json_t *request, const struct sl_api_tools *t,
                       const struct sl_buf *prompt, const struct sl_buf *forced, sl_answer_fn fn,
                       void *arg, struct sl_answer **out, struct sl_api_error *e)
{
    struct sl_answer_style style = style_of(s);
    const json_t *tools = json_object_get(request, "tools");
    *out = NULL;
    if (style.reasoning == SL_REASONING_NONE &&
        (style.tools == SL_TOOLS_NONE || !json_array_size(tools)))
        return 0;
    SL_ASSERT(prompt->len >= forced->len);
    struct sl_answer_params p = {.style = style,
                                 .tools = tools,
                                 .max_calls = t->one,
                                 .prompt = sl_buf_str(prompt),
                                 .prompt_len = prompt->len - forced->len,
                                 .fn = fn,
                                 .arg = arg};
    sl_env_random(&p.seed, sizeof p.seed);
    int rc = sl_answer_open(&p, out);
    if (rc == 0 && forced->len) rc = sl_answer_push(*out, sl_buf_str(forced), forced->len);
    return rc ? sl_api_from_code(e, rc, NULL) : 0;
}

void sl_api_show_marks(struct sl_service *s, struct sl_submit *submit)
{
    const char *marks[SL_ANSWER_MARKS_MAX];
    const struct sl_tokenizer *t = sl_service_tokenizer(s);
    int n = sl_answer_marks(style_of(s), marks);
    submit->n_marks = 0;
    for (int i = 0; i < n; i++) {
        int32_t id = sl_tokenizer_find(t, marks[i], strlen(marks[i]));
        if (id >= 0 && sl_tokenizer_is_special(t, id)) submit->marks[submit->n_marks++] = id;
    }
}
