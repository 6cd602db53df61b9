"""Benchmarks: each row against the reference program's way of doing the same work, in one run on one machine."""
