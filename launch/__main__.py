"""Makes `python -m launch` the same as `tin`."""

from launch.cli import main

main()
