"""Settings of every stage: typed, strict, and written once."""
