"""FRESCO (Yang et al., CVPR 2024, arXiv 2403.12962): spatial and temporal correspondence."""
