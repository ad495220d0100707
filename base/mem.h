/* mem.h - where bytes live: a pointer, a length and the device that owns them. */
#ifndef SL_BASE_MEM_H
#define SL_BASE_MEM_H

#include <stddef.h>
#include <stdint.h>

enum sl_mem_kind {
    SL_MEM_HOST,   /* ordinary memory */
    SL_MEM_PINNED, /* host memory a GPU can reach */
    SL_MEM_CUDA    /* GPU memory, `device` is its ordinal */
};

struct sl_mem {
    void *ptr;
    size_t len; /* bytes */
    enum sl_mem_kind kind;
    int device;
};

#define SL_MEM_ALIGN 64 /* bytes: every buffer we allocate for tensors starts on such a boundary   \
                         */

#endif
