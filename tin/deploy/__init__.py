"""Uses of a trained model outside of its run: predictions at scale, streams and exported files."""
