"""Rerender-A-Video (Yang et al., SIGGRAPH Asia 2023, arXiv 2306.07954), in parts: a baseline."""
