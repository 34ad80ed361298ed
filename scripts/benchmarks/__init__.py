"""Speed and memory of this package, timm and chinhsuanwu's code: `python -m scripts.benchmarks`."""
