"""From a name in `model` to the weights and the worker that answer for it."""
