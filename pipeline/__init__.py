"""Turns shards into batches of clips; NVIDIA DALI decodes the frames."""
