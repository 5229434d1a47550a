"""Measurements of speed: the operator, the model, the loader and training."""
