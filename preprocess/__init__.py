"""Videos in, DALI-readable shards out."""
