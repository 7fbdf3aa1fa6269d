"""Measurements of stackserve: run as `python -m benchmarks.NAME`; never part of the wheel."""
