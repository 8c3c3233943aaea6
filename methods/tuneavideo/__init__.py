"""Tune-A-Video (Wu et al., ICCV 2023, arXiv 2212.11565): one-shot tuning of an inflated UNet."""
