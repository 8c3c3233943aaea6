"""The baseline of editing by DDIM inversion: no tuning, no guidance by features."""
