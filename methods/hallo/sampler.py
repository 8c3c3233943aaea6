"""Hallo (arXiv 2406.08801): a portrait that speaks, drawn a segment at a time.

Of the request count the portrait (a frame of the clip), the voice, and as many frames as the clip
has; what else the clip shows is only measured against.

Shapes: f frames of the clip, g frames of a segment, n motion frames; pictures (., 3, h, w) in
[0, 1], latents (1 c g h w) float32, scaled.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from crossframe.errors import Problem, UserError
from crossframe.voice import Voice
from methods.axes import shared_fraction
from methods.backbones import decode_latents, encode_frames
from methods.base import Progress, SampleRequest
from methods.ddim import Schedule, make_schedule
from methods.denoising import StepNoise, guidance_scales
from methods.hallo.backbone import HalloBackbone
from methods.hallo.calls import HalloCall, Masks, Scales
from methods.hallo.config import HalloConfig
from methods.hallo.drawing import Conditions, Null, draw_latents
from methods.hallo.options import Guidance
from methods.hallo.regions import find_boxes, make_locator, make_masks
from methods.hallo.segments import FPS, Segment, draw_segments, plan_segments
from methods.hallo.sizes import LEVELS, Sizes
from methods.hallo.sound import hear
from methods.noise import frame_noise
from methods.patterns import parse_pattern

RATE_OFF = 0.02
"""Part by which a clip's frame rate may differ from 25: less than half a frame a second."""


def sample(
    backbone: HalloBackbone, request: SampleRequest, config: HalloConfig, progress: Progress
) -> Tensor:
    """Draw the portrait speaking, as many frames as the clip has; see `methods.base.Sampler`.

    progress counts the steps of all segments. Raises UserError for a clip without a voice, at
    another rate than 25 frames per second or of another form, for a face of which nobody says where
    or whose it is, and for options that the networks cannot follow.
    """
    voice = _require(backbone, request, config)
    frames, length = len(request.frames), config.segment.length
    portrait = look(backbone, request, config)
    heard = listen(backbone, request, voice, config)
    segments = plan_segments(frames, length)
    run = Run(backbone, config, request, portrait, heard, len(segments), progress)
    video = draw_segments(
        run, portrait.picture, frames, length, config.motion.frames, config.motion.source
    )
    borders = [segment.start for segment in segments[1:]]
    request.note("decode_borders", borders)
    request.note(
        "hallo",
        {
            "segments": len(segments),
            "frames_drawn": run.drawn,
            "network_calls": run.calls,
            "guided": config.guided,
        },
    )
    return video


@dataclass(frozen=True)
class Portrait:
    """What is known of the portrait, for all segments.

    picture: (3, h, w). identity: face embedding (1, e). masks: per level, (1, 1, 3, s, s), or None
    for none. face: the locator's input (1, 3, H, W), or None.
    """

    picture: Tensor
    identity: Tensor
    masks: Masks | None
    face: Tensor | None


def look(backbone: HalloBackbone, request: SampleRequest, config: HalloConfig) -> Portrait:
    """Return the portrait, its regions and its identity, on the backbone's device."""
    frame, options = config.reference.frame, config.regions
    picture = request.frames[frame]
    height, width = picture.shape[-2:]
    masked, side = options.attention == "three", height // backbone.factor
    identity = face_embedding(backbone, request, config)
    masks, face = None, None
    if masked or config.reference.locator:
        boxes = find_boxes(picture, frame, options, request.truth, backbone.landmarks)
        size = (width, height)
        if masked:
            masks = tuple(_on(backbone, m) for m in make_masks(*boxes, size, options, side))
        if config.reference.locator:
            face = _on(backbone, make_locator(boxes[0], size, options, side))
    return Portrait(picture, _on(backbone, identity[None]), masks, face)


def face_embedding(backbone: HalloBackbone, request: SampleRequest, config: HalloConfig) -> Tensor:
    """Return who the portrait shows, (e,) float32: as the clip knows it, else as a network sees it.

    Raises UserError where neither says.
    """
    width = backbone.nets.sizes.face_width
    if not config.reference.identity:
        return torch.zeros(width)
    known = request.truth.get("identity")
    if known is not None and known.shape == (width,):
        return known.float()
    if backbone.face_encoder is None:
        what = "nothing says who the portrait shows"
        fix = (
            "name backbone.face_encoder, the folder face_analysis/models, and `pip install "
            "insightface onnxruntime`; or set reference.identity: false"
        )
        raise UserError(Problem("backbone.face_encoder", what, fix=fix))
    return backbone.face_encoder(request.frames[config.reference.frame])


def listen(
    backbone: HalloBackbone, request: SampleRequest, voice: Voice, config: HalloConfig
) -> Tensor:
    """Return what each frame hears, (T, window, k, c) float32 on the CPU.

    T is f, padded as the configuration says. Features are shared by all samples of a voice.
    """
    encoder, reach = backbone.audio_encoder, backbone.nets.sizes.window // 2
    parts = [voice.sha256, encoder.identity(), config.padded_to, reach]
    made = request.shared(
        "sound", parts, lambda: {"windows": hear(encoder, voice, config.padded_to, reach)}
    )
    return made["windows"]


@dataclass
class Run:
    """The drawing of one clip, segment by segment.

    heard: windows of sound (T, w, k, c). segments: how many there will be. calls: how often the
    denoising network was called so far; drawn: frames, those that are cut off included.
    """

    backbone: HalloBackbone
    config: HalloConfig
    request: SampleRequest
    portrait: Portrait
    heard: Tensor
    segments: int
    progress: Progress
    calls: int = 0
    drawn: int = 0

    def __call__(self, segment: Segment, motion: Tensor) -> Tensor:
        """Draw a segment after motion frames (n, 3, h, w): frames (g, 3, h, w)."""
        backbone: Any = self.backbone
        sound = self.heard[segment.frames]
        shown = torch.cat([self.portrait.picture[None], motion])
        images = encode_frames(backbone, shown)[None]
        given = Conditions(
            identity=self.portrait.identity,
            images=_on(backbone, images),
            sound=_on(backbone, sound[None]),
            masks=self.portrait.masks,
            face=self.portrait.face,
        )
        latents = self.latents(given, segment.index)
        self.drawn += len(sound)
        return decode_latents(backbone, latents[0].transpose(0, 1))

    def latents(self, given: Conditions, index: int) -> Tensor:
        """Draw the latents of segment `index` under its conditions."""
        config, frames, shape = self.config, given.sound.shape[1], tuple(given.images.shape[2:])
        noise = self.noise((index,), frames, shape, config.noise)
        schedule = schedule_of(self.backbone, config)

        def step_noise(step: int) -> Tensor | None:
            if config.eta == 0:
                return None
            return self.noise((index, "step", step), frames, shape, "independent")

        def told(done: int, total: int) -> None:
            self.calls += 1
            self.progress(index * total + done, self.segments * total)

        return run_latents(self.backbone, config, given, schedule, noise, step_noise, told)

    def noise(
        self, stream: tuple[str | int, ...], frames: int, shape: tuple[int, ...], kind: str
    ) -> Tensor:
        """Standard normal noise (1 c g h w) of a named stream."""
        drawn = frame_noise(
            self.request.seed, ("segment", *stream), frames, shape, shared_fraction(kind)
        )
        return drawn.transpose(0, 1)[None].to(self.backbone.device)


def run_latents(
    backbone: HalloBackbone,
    config: HalloConfig,
    given: Conditions,
    schedule: Schedule,
    noise: Tensor,
    step_noise: StepNoise = lambda index: None,
    progress: Progress = lambda done, total: None,
) -> Tensor:
    """Draw one segment's latents (1 c g h w) from noise as a configuration says."""
    quirks, guidance = config.quirks, config.guidance
    return draw_latents(
        backbone.nets,
        given,
        schedule,
        noise,
        guidance_scales(guidance, len(schedule)),
        call_of(config),
        half=quirks.half_bank,
        null=null_of(guidance),
        tokens_order=quirks.token_rows,
        eta=config.eta,
        step_noise=step_noise,
        progress=progress,
    )


def call_of(config: HalloConfig) -> HalloCall:
    """Return what a configuration tells the networks, besides a segment's conditions."""
    quirks, reference = config.quirks, config.reference
    scales = Scales(**config.scales.model_dump())
    if config.regions.attention == "full":
        scales = scales._replace(face=0.0, lip=0.0)
    return HalloCall(
        frames=0,
        scales=scales,
        pattern=parse_pattern(reference.pattern),
        reference_levels=reference.levels if reference.on else (),
        order=quirks.reference_rows,
        motion_norm=quirks.motion_norm,
        dead_modules=quirks.dead_modules,
        evaluation=quirks.evaluation,
    )


def null_of(guidance: Guidance) -> Null:
    """Return what the null half goes without."""
    return Null(
        identity=guidance.identity,
        audio=guidance.audio,
        reference=guidance.reference == "dropped",
        locator=guidance.locator == "dropped",
        motion=guidance.motion == "dropped",
    )


def schedule_of(backbone: HalloBackbone, config: HalloConfig) -> Schedule:
    """Return the DDIM steps of a segment."""
    options = config.schedule
    own = {"beta_schedule": options.betas, "rescale_betas_zero_snr": options.zero_snr}
    return make_schedule({**backbone.scheduler_config, **own}, config.steps)


def _on(backbone: HalloBackbone, tensor: Tensor) -> Tensor:
    return tensor.to(backbone.device, backbone.dtype)


def _require(backbone: HalloBackbone, request: SampleRequest, config: HalloConfig) -> Voice:
    """Return the voice; raises UserError with all that does not fit, before anything is made."""
    problems = [
        *_voice_problems(request),
        *_size_problems(backbone, request),
        *_option_problems(backbone.nets.sizes, len(request.frames), config),
    ]
    if problems or request.voice is None:
        raise UserError(problems)
    return request.voice


def _voice_problems(request: SampleRequest) -> Iterator[Problem]:
    if request.voice is None:
        fix = (
            "take faces:heldout/0, a video with sound, or a picture with `voice: sound.wav` in its "
            "sidecar"
        )
        yield Problem("clip", "has no voice, and Hallo draws what a voice says", fix=fix)
        return
    rate = len(request.frames) / request.voice.seconds
    if abs(rate - FPS) > RATE_OFF * FPS:
        fix = "set clip.stride: 1, or convert it: ffmpeg -i IN -r 25 OUT"
        yield Problem("clip", f"has {rate:.4g} frames per second", f"{FPS}", fix)


def _size_problems(backbone: HalloBackbone, request: SampleRequest) -> Iterator[Problem]:
    height, width = request.frames.shape[-2:]
    least = backbone.factor << (LEVELS - 1)
    if height != width or height % least:
        what = f"frames of {width}x{height} pixels"
        yield Problem("clip.size", what, f"squares whose side is a multiple of {least}")


def _option_problems(sizes: Sizes, frames: int, config: HalloConfig) -> Iterator[Problem]:
    if config.reference.frame >= frames:
        what = f"the clip has no frame {config.reference.frame}"
        yield Problem("reference.frame", what, f"0..{frames - 1}")
    together = config.segment.length + config.motion.frames
    if together > sizes.positions:
        what = f"{config.segment.length} frames after {config.motion.frames} motion frames"
        fix = "lower segment.length or motion.frames"
        yield Problem("segment.length", what, f"{sizes.positions} in all", fix)
    single = not (sizes.masked_blocks and sizes.masked_levels)
    if single != (config.regions.attention == "single"):
        has = "one audio attention" if single else "an audio attention per region"
        what = f"{config.regions.attention!r}, but these networks have {has}"
        yield Problem("regions.attention", what, "single" if single else "three, everywhere, full")
