// Function qualifiers shared by every formula header.
// Formulas are force-inlined with internal linkage: the same header is compiled once per SIMD variant, and a shared
// out-of-line copy could hand AVX-512 code to a machine without it.
#pragma once

#if defined(__CUDACC__)
#define RPE_FORMULA static __device__ __forceinline__
#define RPE_MEMBER_FORMULA __device__ __forceinline__
#else
#define RPE_FORMULA static inline __attribute__((always_inline))
#define RPE_MEMBER_FORMULA inline __attribute__((always_inline))
#endif
