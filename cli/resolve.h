/* resolve.h - what the user calls a model, as the path of a file. */
#ifndef SL_CLI_RESOLVE_H
#define SL_CLI_RESOLVE_H

#include <stddef.h>

#include "base/err.h"

/* `arg` is the path of a .gguf file or the name "smollm2": the model that deploy/quickstart
 * downloads, found through $SLUICE_MODEL_SMOLLM2, else in the XDG cache. Writes the path of a file
 * that exists to path[0..cap). SL_ENOTFOUND when there is none, SL_EUNSUPPORTED for folders and
 * .safetensors files, SL_ELIMIT for a path longer than cap; the message says what to do. */
int sl_model_resolve(const char *arg, char *path, size_t cap, struct sl_err *err);

#endif
