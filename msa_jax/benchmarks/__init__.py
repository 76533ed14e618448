"""What `scripts/benchmark.py` measures: ratios within one run, never absolute promises."""
