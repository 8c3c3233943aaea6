"""Hallo (arXiv 2406.08801): portraits driven by a voice, after a reference image."""
