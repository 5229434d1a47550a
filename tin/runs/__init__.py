"""The run folder, its checkpoints, and trained models read back from it."""
