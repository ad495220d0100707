/* resolve.c - see resolve.h. Looks at names and file kinds only; whether a file is a sound model,
 * its reader says. */
#include "cli/resolve.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/env.h"
#include "base/sl_assert.h"

#define SMOLLM2_NAME "smollm2"
#define SMOLLM2_FILE "SmolLM2-135M-Instruct.Q4_1.gguf"

/* Where deploy/quickstart puts the small model. */
static int smollm2_path(char *path, size_t cap, struct sl_err *err)
{
    const char *file = sl_env_get("SLUICE_MODEL_SMOLLM2"), *cache = sl_env_get("XDG_CACHE_HOME");
    const char *home = sl_env_get("HOME");
    int n;
    if (file)
        n = snprintf(path, cap, "%s", file);
    else if (cache)
        n = snprintf(path, cap, "%s/sluice/" SMOLLM2_FILE, cache);
    else if (home)
        n = snprintf(path, cap, "%s/.cache/sluice/" SMOLLM2_FILE, home);
    else
        return sl_err_set(err, SL_ENOTFOUND,
                          "model " SMOLLM2_NAME
                          ": neither SLUICE_MODEL_SMOLLM2, XDG_CACHE_HOME nor HOME "
                          "is set, so its place is unknown");
    if ((size_t)n >= cap)
        return sl_err_set(err, SL_ELIMIT, "model " SMOLLM2_NAME ": its path is too long");
    struct stat st;
    if (stat(path, &st) != 0)
        return sl_err_set(err, SL_ENOTFOUND,
                          "model " SMOLLM2_NAME
                          ": %s: %s; run deploy/quickstart, which downloads it",
                          path, strerror(errno));
    return 0;
}

int sl_model_resolve(const char *arg, char *path, size_t cap, struct sl_err *err)
{
    SL_ASSERT(arg && path && cap > 0);
    int r = 0;
    if (strcmp(arg, SMOLLM2_NAME) == 0)
        r = smollm2_path(path, cap, err);
    else if ((size_t)snprintf(path, cap, "%s", arg) >= cap)
        r = sl_err_set(err, SL_ELIMIT, "the model's path is longer than %zu bytes", cap - 1);
    if (r != 0) return r;
    struct stat st;
    if (stat(path, &st) != 0)
        return sl_err_set(err, SL_ENOTFOUND,
                          "model %s: %s; give the path of a .gguf file or of a Hugging Face "
                          "folder, or " SMOLLM2_NAME
                          " for the small one that deploy/quickstart downloads",
                          path, strerror(errno));
    if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode)) /* a FIFO would be waited for */
        return sl_err_set(err, SL_EINPUT, "model %s: neither a file nor a folder", path);
    return 0;
}
