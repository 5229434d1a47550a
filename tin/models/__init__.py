"""The networks: temporal modules, ResNets, and weights of other projects."""
