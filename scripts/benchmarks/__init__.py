"""Measurements of speed and memory beside timm and chinhsuanwu's code: `python -m scripts.benchmarks`."""
