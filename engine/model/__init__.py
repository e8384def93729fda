"""The computation of one step: decoder, vision tower, attention, caches, sampling, kernels and CUDA graphs."""
