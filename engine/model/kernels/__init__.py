"""Kernels in C for float32 on a processor: `build` makes the library, `library` calls it. Without it, torch does."""
