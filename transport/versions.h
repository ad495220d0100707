/* versions.h - which libraries links stand on, as they say themselves at run time. */
#ifndef SL_TRANSPORT_VERSIONS_H
#define SL_TRANSPORT_VERSIONS_H

#ifdef __cplusplus
extern "C" {
#endif

/* "1.13.1" */
const char *sl_ucx_version(void);

/* NCCL's own number, 22809 is 2.28.9; 0 in a build without NCCL. */
int sl_nccl_version(void);

#ifdef __cplusplus
}
#endif
#endif
