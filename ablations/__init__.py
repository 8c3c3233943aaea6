"""Ablation grids: a spec becomes rows, cells, a run folder. See `check.load_spec` and `plan`."""
