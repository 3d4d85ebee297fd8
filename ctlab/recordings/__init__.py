"""Recorded runs that come with the package; `scripts/record-sample.py` makes them."""
