"""The networks: temporal modules, ResNets, and the weights of other projects."""
