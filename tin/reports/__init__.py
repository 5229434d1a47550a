"""Reports of many runs: tables, curves, and a page."""
