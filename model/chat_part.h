/* chat_part.h - shared by chat.c and chat_open.c (private). */
#ifndef SL_MODEL_CHAT_PART_H
#define SL_MODEL_CHAT_PART_H

#include <jansson.h>

#include "model/chat.h"

struct sl_chat {
    struct sl_template *plain, *tools; /* tools NULL: plain renders them as well */
    json_t *bos, *eos;                 /* strings; NULL: the model has none */
    struct sl_answer_style style;
};

#endif
