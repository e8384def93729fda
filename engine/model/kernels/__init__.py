"""C kernels for the CPU: `build` compiles them, `library` calls them, `packed` those of weights of fewer than 32 bits.

Activations, keys and values are float32. Without the kernels torch is used.
"""
