"""crossframe: a laboratory for frame attention in video diffusion.

This package is the foundation (errors, identity keys, atomic files, lazy registry, provenance,
video io) and the command line on top. Nothing in it imports torch.
"""

__version__ = "0.1.0"
