// One function compiled for several instruction sets; the loader picks the widest this CPU has.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__linux__)
#define MOLEFLOW_VECTOR_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define MOLEFLOW_VECTOR_CLONES
#endif

// For the bodies of vector clones: they must become part of the clone to be compiled for its instruction set.
#define MOLEFLOW_INLINE inline __attribute__((always_inline))
