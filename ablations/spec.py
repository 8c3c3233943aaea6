"""What an ablation spec may say: frozen models, one per YAML mapping.

The models hold shapes and types only; names (methods, metrics, rows) are checked in `check.py`,
method options by the method's own configuration class. Torch-free.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)

Role = Literal["identity", "runtime", "presentation"]

SLUG = r"^[a-z0-9][a-z0-9._-]*$"
MAX_NAME = 100
"""Characters of names and row labels: they become folder names and table cells."""

FIELD_ROLES: Mapping[str, Role] = {
    "name": "presentation",
    "title": "presentation",
    "description": "presentation",
    "backbone": "identity",
    "encoder": "identity",
    "method": "identity",
    "sentinels": "identity",
    "base": "identity",
    "grid": "identity",
    "zip": "identity",
    "include": "identity",
    "exclude": "identity",
    "clips": "identity",
    "clip.frames": "identity",
    "clip.size": "identity",
    "clip.start": "identity",
    "clip.stride": "identity",
    "prompt": "identity",
    "prompts": "identity",
    "seeds.base": "identity",
    "seeds.count": "identity",
    "metrics": "identity",
    "threads": "runtime",
    "report.rows": "presentation",
    "report.baseline": "presentation",
    "report.metrics": "presentation",
    "report.clips": "presentation",
    "claims.text": "presentation",
    "claims.source": "presentation",
    "claims.paper": "presentation",
}
"""What a field does to keys; `metrics` and `encoder` enter the keys of scores, not of cells."""

OPEN_MAPPINGS: Mapping[str, str] = {
    "base": "method option",
    "grid": "axis",
    "zip": "axis",
    "prompts": "clip",
}
"""Top-level mappings whose keys are free text and may contain dots."""


class Frozen(BaseModel):
    """Base of all spec models: immutable, no unknown keys, no silent conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def _text_or_mapping(value: Any) -> Any:
    if isinstance(value, str) or (isinstance(value, dict) and value):
        return value
    raise ValueError("must be a name or a mapping")


def _texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, str) and v for v in value)


def _prompt_table(value: Any) -> Any:
    if _texts(value):
        return value
    if isinstance(value, dict) and all(
        _texts(entry) or (isinstance(entry, str) and entry) for entry in value.values()
    ):
        return value
    raise ValueError("must be a list of prompts, or a mapping from clip to one prompt or a list")


Backbone = Annotated[
    Any,
    AfterValidator(_text_or_mapping),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "object"}]}),
]
Prompts = Annotated[
    Any, AfterValidator(_prompt_table), WithJsonSchema({"type": ["array", "object"]})
]
Values = Annotated[tuple[Any, ...], Field(min_length=1)]
Name = Annotated[str, Field(min_length=1)]


MAX_PIXELS = 2**30
"""Pixels of one clip, about 3 GB of frames: far above what a GPU samples at once."""


class ClipSettings(Frozen):
    """How much of each clip is read."""

    frames: int = Field(default=8, ge=1, le=100_000, description="frames per clip")
    size: int = Field(default=128, ge=8, le=8192, description="side of the square crop, pixels")
    start: int = Field(default=0, ge=0, description="first frame")
    stride: int = Field(default=1, ge=1, description="step between frames")

    @model_validator(mode="after")
    def _fits(self) -> ClipSettings:
        if self.frames * self.size**2 > MAX_PIXELS:
            raise ValueError(f"frames x size x size is more than {MAX_PIXELS:,} pixels")
        return self


class Seeds(Frozen):
    """Noise seeds: derived from base, clip and index, never from an axis."""

    base: int = Field(default=0, ge=0)
    count: int = Field(default=1, ge=1, description="samples per row and clip")


class ReportSettings(Frozen):
    """How the results are laid out."""

    rows: str = Field(default="", description="axis that heads the column of row labels")
    baseline: str = Field(
        default="", description="label of the row that differences are taken from"
    )
    metrics: tuple[Name, ...] = Field(
        default=(), description="metrics shown, in order; default: all"
    )
    clips: tuple[Name, ...] = Field(
        default=(), description="clips shown as frame strips; default: first"
    )


class Claim(Frozen):
    """A published statement to be tested, as `left < right on metric`."""

    text: Name
    source: str = ""
    paper: dict[str, float] = Field(
        default={}, description="the publication's numbers by row label"
    )


class Spec(Frozen):
    """One ablation: a grid of method options, clips, seeds and metrics."""

    name: str = Field(
        pattern=SLUG, max_length=MAX_NAME, description="name of the run folder: a-z 0-9 . _ -"
    )
    title: str = ""
    description: str = ""
    backbone: Backbone = Field(
        default="miniature", description="`miniature` or a mapping of folders"
    )
    encoder: str = Field(
        default="auto", description="CLIP folder used by the metrics; `auto` goes with the backbone"
    )
    method: Name = Field(description="method whose options the grid varies")
    sentinels: tuple[Name, ...] = Field(
        default=(), description="methods run once per clip for comparison"
    )
    base: dict[str, Any] = Field(default={}, description="method options common to all rows")
    grid: dict[str, Values] = Field(default={}, description="axes; every combination is a row")
    zip: dict[str, Values] = Field(
        default={}, description="axes that advance together, one step per row"
    )
    include: tuple[dict[str, Any], ...] = Field(
        default=(), description="extra rows: label, method, options"
    )
    exclude: tuple[dict[str, Any], ...] = Field(
        default=(), description="rows of the grid to leave out"
    )
    clips: Annotated[tuple[Name, ...], Field(min_length=1)] = Field(
        description="clip references, ranges (a..b) and globs"
    )
    clip: ClipSettings = ClipSettings()
    prompt: Name = Field(
        default="object", description="kind of edit prompt taken from the clip, or caption"
    )
    prompts: Prompts = Field(default={}, description="prompts for all clips, or by clip")
    seeds: Seeds = Seeds()
    metrics: Annotated[tuple[Name, ...], Field(min_length=1)]
    threads: int | None = Field(
        default=None, ge=1, le=4096, description="CPU threads; no effect on identity"
    )
    report: ReportSettings = ReportSettings()
    claims: tuple[Claim, ...] = ()


def json_schema(methods: list[str], metrics: list[str]) -> dict[str, Any]:
    """JSON schema of the spec for editors, with the known names as completions."""
    schema = Spec.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    fields = schema["properties"]
    fields["method"]["enum"] = methods
    fields["sentinels"]["items"]["enum"] = methods
    fields["metrics"]["items"]["enum"] = metrics
    return schema
