"""The Temporal Interlacing Network: model, training, tests and reports."""
