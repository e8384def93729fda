"""C kernels for float32 on the CPU: `build` compiles the library, `library` calls it. Without them torch is used."""
