/* resolve.h - what the user calls a model, as the path of a file or folder. */
#ifndef SL_CLI_RESOLVE_H
#define SL_CLI_RESOLVE_H

#include <stddef.h>

#include "base/err.h"

/* `arg` is the path of a model (model/weights.h) or the name "smollm2": the model that
 * deploy/quickstart downloads, found through $SLUICE_MODEL_SMOLLM2, else in the XDG cache. Writes a
 * path that exists to path[0..cap). SL_ENOTFOUND when there is none, SL_EINPUT when it is neither
 * file nor folder, SL_ELIMIT for a path longer than cap; the message says what to do. */
int sl_model_resolve(const char *arg, char *path, size_t cap, struct sl_err *err);

#endif
