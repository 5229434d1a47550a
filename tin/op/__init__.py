"""The interlace operator: definition, compiled kernels and their build."""
