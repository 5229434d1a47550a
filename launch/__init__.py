"""The command line, and stages as jobs on a cluster."""
