"""Benchmarks of ctlab with its peers side by side; `python -m benchmarks.run` prints one table."""
