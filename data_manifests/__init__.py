"""Clips: where they come from, how they are named, and what is known about them."""
