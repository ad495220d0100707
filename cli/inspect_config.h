/* inspect_config.h - a model's configuration in words and numbers, for `inspect`: only what this
 * model has. */
#ifndef SL_CLI_INSPECT_CONFIG_H
#define SL_CLI_INSPECT_CONFIG_H

#include <jansson.h>

#include "model/config.h"

/* New references; NULL when memory is out. */
json_t *sl_inspect_config(const struct sl_config *c);
/* {"total", "active": of one token, "embedding"}: numbers in matrices and vectors of the roles that
 * are run. */
json_t *sl_inspect_parameters(const struct sl_weights *w, const struct sl_config *c);
/* What the model brings for text: vocabulary, begin and end tokens, chat template and its styles.
 */
json_t *sl_inspect_text(const struct sl_weights *w);

#endif
