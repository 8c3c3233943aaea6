"""Stable Video Diffusion (arXiv 2311.15127): image to video."""
