"""The command line, and the stages of a run as jobs on a cluster."""
