"""`python -m launch` runs the same commands as `tin`."""

from launch.cli import main

main()
