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
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)

from crossframe.flow.table import FLOWS
from crossframe.form import Size, width_height
from metrics.preprocessing import GEOMETRIES
from metrics.presets import PRESETS

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
    "geometry": "identity",
    "flow": "identity",
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
    "report.columns": "presentation",
    "report.figures.name": "presentation",
    "report.figures.kind": "presentation",
    "report.figures.caption": "presentation",
    "report.figures.width": "presentation",
    "report.figures.metrics": "presentation",
    "report.figures.rows": "presentation",
    "report.figures.clips": "presentation",
    "report.figures.axes": "presentation",
    "report.figures.frames": "presentation",
    "report.figures.zoom": "presentation",
    "report.figures.seed": "presentation",
    "claims.text": "presentation",
    "claims.source": "presentation",
    "claims.paper": "presentation",
    "paper.work": "presentation",
    "paper.place": "presentation",
    "paper.setting": "presentation",
    "paper.columns.name": "presentation",
    "paper.columns.metric": "presentation",
    "paper.columns.factor": "presentation",
    "paper.rows": "presentation",
    "paper.absent": "presentation",
    "paper.notes": "presentation",
    "scale": "presentation",
    "scales": "presentation",
}
"""What a field does to keys; `metrics`, `encoder`, `geometry` and `flow` enter the keys of scores,
not of cells.
`scale` and `scales` act through the fields that they set."""

OPEN_MAPPINGS: Mapping[str, str] = {
    "base": "method option",
    "grid": "axis",
    "zip": "axis",
    "prompts": "clip",
}
"""Top-level mappings whose keys are free text and may contain dots."""


class Frozen(BaseModel):
    """Base of all spec models: immutable, no unknown keys, no silent conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)


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


def _metric_list(value: Any) -> Any:
    if isinstance(value, dict):
        if list(value) != ["preset"] or not isinstance(value["preset"], str):
            raise ValueError("must be a list of metrics, or {preset: NAME}")
        return (f"preset:{value['preset']}",)
    return tuple(value) if isinstance(value, list) else value


def _size(value: Any) -> Size:
    sides = value if isinstance(value, list | tuple) else [value, value]
    if len(sides) != 2 or not all(type(side) is int for side in sides):
        raise ValueError("must be a side in pixels, or [width, height]")
    if not all(LEAST_SIDE <= side <= MAX_SIDE for side in sides):
        raise ValueError(f"sides must be {LEAST_SIDE} to {MAX_SIDE:,} pixels")
    return sides[0] if sides[0] == sides[1] else (sides[0], sides[1])


LEAST_SIDE, MAX_SIDE = 8, 8192
"""Pixels of a clip's side."""

_SIDE_SCHEMA = {"type": "integer", "minimum": LEAST_SIDE, "maximum": MAX_SIDE}
_SIZE_SCHEMA = {
    "anyOf": [
        _SIDE_SCHEMA,
        {"type": "array", "items": _SIDE_SCHEMA, "minItems": 2, "maxItems": 2},
    ]
}

Pixels = Annotated[Any, AfterValidator(_size), WithJsonSchema(_SIZE_SCHEMA)]
Backbone = Annotated[
    Any,
    AfterValidator(_text_or_mapping),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "object"}]}),
]
Prompts = Annotated[
    Any, AfterValidator(_prompt_table), WithJsonSchema({"type": ["array", "object"]})
]
Metrics = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...],
    Field(min_length=1),
    BeforeValidator(_metric_list),
]
Values = Annotated[tuple[Any, ...], Field(min_length=1)]
Name = Annotated[str, Field(min_length=1)]


MAX_PIXELS = 2**30
"""Pixels of one clip, about 3 GB of frames: far above what a GPU samples at once."""


class ClipSettings(Frozen):
    """How much of each clip is read."""

    frames: int = Field(default=8, ge=1, le=100_000, description="frames per clip")
    size: Pixels = Field(default=128, description="pixels: side of a square, or [width, height]")
    start: int = Field(default=0, ge=0, description="first frame")
    stride: int = Field(default=1, ge=1, description="step between frames")

    @model_validator(mode="after")
    def _fits(self) -> ClipSettings:
        width, height = width_height(self.size)
        if self.frames * width * height > MAX_PIXELS:
            raise ValueError(f"frames x width x height is more than {MAX_PIXELS:,} pixels")
        return self


class Seeds(Frozen):
    """Noise seeds: derived from base, clip and index, never from an axis."""

    base: int = Field(default=0, ge=0)
    count: int = Field(default=1, ge=1, description="samples per row and clip")


FigureKind = Literal[
    "bars",
    "differences",
    "scatter",
    "radar",
    "curves",
    "multiples",
    "voice",
    "borders",
    "axis",
    "tradeoff",
    "losses",
    "heatmap",
    "strips",
    "xt",
    "errors",
]
Share = Annotated[float, Field(ge=0, le=1)]
Box = tuple[Share, Share, Share, Share]


class FigureSettings(Frozen):
    """One figure of the report, to be drawn again by its name."""

    name: str = Field(pattern=SLUG, max_length=MAX_NAME, description="file name, a-z 0-9 . _ -")
    kind: FigureKind = Field(description="what is drawn (docs/reports.md)")
    caption: str = ""
    width: Literal["column", "page"] = Field(
        default="page", description="column is 3.25 inches wide, page 6.75"
    )
    metrics: tuple[Name, ...] = Field(default=(), description="metrics shown; default: all")
    rows: tuple[Name, ...] = Field(default=(), description="row labels shown; default: all")
    clips: tuple[Name, ...] = Field(default=(), description="clips shown; default: first")
    axes: tuple[Name, ...] = Field(
        default=(),
        description="axis: the horizontal one; heatmap: across, down; multiples: lines, panels",
    )
    frames: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        default=(), description="frames shown by strips and errors; default: spread evenly"
    )
    zoom: tuple[Box, ...] = Field(
        default=(), max_length=3, description="boxes [left, top, width, height], parts of a frame"
    )
    seed: int = Field(default=0, ge=0, description="index of the seed whose frames are shown")


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
    columns: str = Field(
        default="", description="second axis: a table of `rows` by `columns` per metric is added"
    )
    figures: tuple[FigureSettings, ...] = Field(
        default=(), description="figures beside the usual ones, by name"
    )


class Claim(Frozen):
    """A published statement to be tested, as `left < right on metric`."""

    text: Name
    source: str = ""
    paper: dict[str, float] = Field(
        default={}, description="the publication's numbers by row label"
    )


class PaperColumn(Frozen):
    """A column of a published table."""

    name: Name = Field(description="heading in the publication")
    metric: str = Field(default="", description="metric of this spec; empty: shown for itself")
    factor: float = Field(default=1.0, description="published number times factor is in our unit")


class PaperTable(Frozen):
    """A published table, with its numbers as printed."""

    work: Name = Field(description="which publication")
    place: Name = Field(description="which table or figure")
    setting: str = Field(default="", description="what the numbers were measured on")
    columns: Annotated[tuple[PaperColumn, ...], Field(min_length=1)]
    rows: dict[str, tuple[float | None, ...]] = Field(
        description="numbers by row label, one per column; null where none is printed"
    )
    absent: dict[str, str] = Field(
        default={}, description="rows of the publication that this spec lacks, with the reason"
    )
    notes: tuple[Name, ...] = Field(default=(), description="what differs from the publication")

    @model_validator(mode="after")
    def _rectangular(self) -> PaperTable:
        wrong = [row for row, numbers in self.rows.items() if len(numbers) != len(self.columns)]
        if wrong:
            shown = ", ".join(map(repr, wrong))
            raise ValueError(f"{len(self.columns)} numbers are needed in rows {shown}")
        return self


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
    geometry: str = Field(
        default="auto",
        description="how the encoder's input is resized and cropped; `auto`: as the preset says",
    )
    flow: str = Field(
        default="auto", description="estimator of flow for footage; `auto`: as the preset says"
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
    prompt: Name | Annotated[tuple[Name, ...], Field(min_length=1)] = Field(
        default="object", description="kinds of edit prompt taken from the clip, or caption"
    )
    prompts: Prompts = Field(default={}, description="prompts for all clips, or by clip")
    seeds: Seeds = Seeds()
    metrics: Metrics = Field(description="metric ids and preset:NAME, or {preset: NAME}")
    threads: int | None = Field(
        default=None, ge=1, le=4096, description="CPU threads; no effect on identity"
    )
    report: ReportSettings = ReportSettings()
    claims: tuple[Claim, ...] = ()
    paper: PaperTable | None = Field(
        default=None, description="the published table that this spec computes again"
    )
    scale: str = Field(default="", description="name of the entry of `scales` that applies")
    scales: dict[str, dict[str, Any]] = Field(
        default={}, description="fields to set, by dotted path, for each scale"
    )


def json_schema(methods: list[str], metrics: list[str]) -> dict[str, Any]:
    """JSON schema of the spec for editors, with the known names as completions."""
    schema = Spec.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    fields = schema["properties"]
    fields["method"]["enum"] = methods
    fields["sentinels"]["items"]["enum"] = methods
    fields["geometry"]["enum"] = ["auto", *GEOMETRIES]
    fields["flow"]["enum"] = ["auto", *FLOWS]
    listed = {key: fields["metrics"].pop(key) for key in ("type", "items", "minItems")}
    listed["items"]["enum"] = [*metrics, *(f"preset:{name}" for name in PRESETS)]
    named = {"type": "object", "properties": {"preset": {"enum": [*PRESETS]}}}
    fields["metrics"]["anyOf"] = [
        listed,
        {**named, "required": ["preset"], "additionalProperties": False},
    ]
    return schema
