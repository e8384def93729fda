"""What computes a step: decoder, vision tower, attention, caches, sampling, kernels and CUDA graphs."""
