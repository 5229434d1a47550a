"""Shards in, batches of clips out, decoded by NVIDIA DALI."""
