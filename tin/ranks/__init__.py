"""The processes of a run: collectives, signals, node checks and the watchdog."""
