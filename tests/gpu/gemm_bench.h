/* gemm_bench.h - timing of products of many rows, for test_gemm's "bench". */
#ifndef SL_TESTS_GPU_GEMM_BENCH_H
#define SL_TESTS_GPU_GEMM_BENCH_H

#include "tests/gpu/gpu.h"

/* Prints tables: what cuBLASLt alone reaches here, every step by itself, the products of one layer
 * of an 8B and a 70B Llama. c has its cuBLASLt and scratch. */
void gemm_bench(struct sl_cuda *c);

#endif
