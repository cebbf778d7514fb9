"""Benchmarks: each runs its yardstick in the same run and prints ratios. Not part of the suite."""
