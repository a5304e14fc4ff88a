"""Speed and learning quality: scripts that print a table and write one JSON, run as `python -m benchmarks.NAME`."""
