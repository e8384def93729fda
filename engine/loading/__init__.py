"""From a checkpoint folder to a model that is ready: device, memory budget, weights, self-check."""
