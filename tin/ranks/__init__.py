"""The ranks of a run: collectives, stop signals, node checks and the watchdog."""
