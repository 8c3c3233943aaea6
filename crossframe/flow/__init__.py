"""Optical flow: fields and their checks, estimators by name."""
