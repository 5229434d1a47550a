"""The commands of `tin`, in one module for each group."""
