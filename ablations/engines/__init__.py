"""Engines: where the cells of a run are computed. Importing this package imports no engine.

Each entry leads to a class that is constructed with `EngineOptions` and follows `base.Engine`.
"""

from __future__ import annotations

from crossframe.registry import Entry, Registry

ENGINES = Registry(
    "engine",
    {
        "local": Entry(
            "ablations.engines.local:LocalEngine",
            "a process per slot on this machine, one GPU per slot where there are GPUs",
        ),
        "inline": Entry(
            "ablations.engines.inline:InlineEngine",
            "this process, one cell after another: for debuggers and profilers",
        ),
        "ray": Entry(
            "ablations.engines.ray:RayEngine",
            "an actor per slot on a Ray cluster, started here or joined by --address",
            {"install": "pip install 'crossframe[ray]'"},
        ),
        "slurm": Entry(
            "ablations.engines.slurm:SlurmEngine",
            "an array job on a Slurm cluster, through submitit",
            {"install": "pip install 'crossframe[slurm]'"},
        ),
    },
    group="crossframe.engines",
)
