"""The run folder: its settings and checkpoints, and trained models that are built from them."""
