"""The video-diffusion methods, by name; importing this package imports no torch.

Each entry of `METHODS` leads to a `Sampler` (see `methods.base`). Its `extra` holds:
config: `module:class` of the torch-free configuration; its field names are the axes of a spec.
needs_backbone: whether the sampler runs networks.
family: of networks, a name in `methods.families`; absent: "image".
source: where the method is published.
version: raised whenever the same configuration gives different frames than before.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from crossframe.registry import Entry, Registry

if TYPE_CHECKING:
    from methods.options import MethodConfig

METHODS = Registry(
    kind="method",
    entries={
        "controlvideo": Entry(
            target="methods.controlvideo.sampler:sample",
            summary="training-free controllable text-to-video with cross-frame attention",
            extra={
                "config": "methods.controlvideo.config:ControlVideoConfig",
                "needs_backbone": True,
                "source": "ControlVideo, ICLR 2024, arXiv 2305.13077",
                "version": 1,
            },
        ),
        "text2videozero": Entry(
            target="methods.text2videozero.sampler:sample",
            summary="zero-shot video: attention to the first frame, and a motion field on latents",
            extra={
                "config": "methods.text2videozero.config:Text2VideoZeroConfig",
                "needs_backbone": True,
                "source": "Text2Video-Zero, ICCV 2023, arXiv 2303.13439",
                "version": 1,
            },
        ),
        "tuneavideo": Entry(
            target="methods.tuneavideo.sampler:sample",
            summary="one-shot tuning on the clip, inversion, sampling with another prompt",
            extra={
                "config": "methods.tuneavideo.config:TuneAVideoConfig",
                "needs_backbone": True,
                "source": "Tune-A-Video, ICCV 2023, arXiv 2212.11565",
                "version": 1,
            },
        ),
        "ddim": Entry(
            target="methods.inversion_only.sampler:sample",
            summary="baseline: DDIM inversion, then sampling with another prompt",
            extra={
                "config": "methods.inversion_only.config:InversionOnlyConfig",
                "needs_backbone": True,
                "source": "DDIM, ICLR 2021, arXiv 2010.02502, section 4.3",
                "version": 1,
            },
        ),
        "fresco": Entry(
            target="methods.fresco.sampler:sample",
            summary="zero-shot editing along the motion of the source: attention and features",
            extra={
                "config": "methods.fresco.config:FrescoConfig",
                "needs_backbone": True,
                "source": "FRESCO, CVPR 2024, arXiv 2403.12962",
                "version": 2,
            },
        ),
        "rerender": Entry(
            target="methods.rerender.sampler:sample",
            summary="baseline: attention to the first and previous key frame, shape-aware fusion",
            extra={
                "config": "methods.rerender.config:RerenderConfig",
                "needs_backbone": True,
                "source": "Rerender-A-Video, SIGGRAPH Asia 2023, arXiv 2306.07954, in parts",
                "version": 2,
            },
        ),
        "svd": Entry(
            target="methods.svd.sampler:sample",
            summary="image to video: temporal layers, guidance that changes from frame to frame",
            extra={
                "config": "methods.svd.config:SvdConfig",
                "needs_backbone": True,
                "family": "svd",
                "source": "Stable Video Diffusion, arXiv 2311.15127",
                "version": 1,
            },
        ),
        "hallo": Entry(
            target="methods.hallo.sampler:sample",
            summary="a portrait that speaks: reference attention, sound by region, motion frames",
            extra={
                "config": "methods.hallo.config:HalloConfig",
                "needs_backbone": True,
                "family": "hallo",
                "source": "Hallo, arXiv 2406.08801",
                "version": 1,
            },
        ),
        "source": Entry(
            target="methods.sentinels:source",
            summary="sentinel: the source frames as they are",
            extra={
                "config": "methods.options:SentinelConfig",
                "needs_backbone": False,
                "source": "a reference row: what real footage scores",
                "version": 1,
            },
        ),
        "frozen": Entry(
            target="methods.sentinels:frozen",
            summary="sentinel: the first source frame, repeated",
            extra={
                "config": "methods.options:SentinelConfig",
                "needs_backbone": False,
                "source": "a reference row: a frozen video wins every consistency score",
                "version": 1,
            },
        ),
    },
    group="crossframe.methods",
)


def method_config(name: str) -> type[MethodConfig]:
    """Return the configuration class of a method, without importing torch.

    Raises UserError when no method has that name.
    """
    module, _, attribute = str(METHODS.entry(name).extra["config"]).partition(":")
    config: type[MethodConfig] = getattr(importlib.import_module(module), attribute)
    return config
