"""`crossframe score`: score videos that already exist."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crossframe.errors import Problem, UserError
from crossframe.verbs.common import Tools, pass_tools

if TYPE_CHECKING:
    from ablations.choice import Choice
    from ablations.scoring_pairs import Pair, Wishes
    from ablations.scoring_videos import Scorer
    from data_manifests.submissions import Texts, Video

PATH = click.Path(path_type=Path)
NEEDS_SOURCE = {"source", "flow"}


@click.command()
@click.option("--edited", type=PATH, required=True, help="Video, frame folder, or folder of these.")
@click.option("--source", type=PATH, help="What the videos were made from; the same forms.")
@click.option("--prompt", default="", help="What was asked for, the same for all videos.")
@click.option("--source-prompt", default="", help="What the source shows, the same for all.")
@click.option("--prompts", type=PATH, help="CSV: video, prompt[, source_prompt]; or TGVE's own.")
@click.option("--preset", "presets", multiple=True, help="A published evaluation, as in tgve.")
@click.option("--metrics", default="", help="Ids, separated by commas.")
@click.option("--encoder", default="auto", help="CLIP: miniature, a folder, a hub id.")
@click.option("--geometry", default="auto", help="How the CLIP's input is resized and cropped.")
@click.option("--flow", default="auto", help="Estimator of flow: dis, raft, gmflow.")
@click.option("--fps", type=click.FloatRange(min=0, min_open=True), help="Rate of scored frames.")
@click.option("--edited-frames", metavar="START:STOP:STEP", help="Frames of the videos to score.")
@click.option("--source-frames", metavar="START:STOP:STEP", help="Frames of the sources to use.")
@click.option("--align", type=click.Choice(["found"]), help="Take the alignment that is found.")
@click.option(
    "--resize", type=click.Choice(["edited", "source"]), help="Which one takes the other's size."
)
@click.option(
    "--sentinels/--no-sentinels",
    default=True,
    help="Score the sources and their frozen first frames too, for scale.",
)
@click.option("--out", type=PATH, help="Folder for scores.json, scores.csv, scores.md.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON, no table.")
@pass_tools
def score(tools: Tools, **given: Any) -> None:
    """Score existing videos: mp4, gif, folders of frames, and TGVE's submission layout.

    Lengths and sizes that differ from the source's are told, with what would fit; nothing is
    cropped, resized or left out unless asked for. Exit code 1 when a video cannot be read.
    """
    from ablations.choice import AUTO
    from ablations.scoring_output import scores_record
    from ablations.scoring_videos import Scorer
    from ablations.shipped import PUBLISHED_ENCODER, named_encoder

    parts = tools.parts()
    choice = _choice(given, parts.metrics)
    pairs = _pairs(given, choice, parts.metrics)
    encoder = PUBLISHED_ENCODER if choice.encoder == AUTO else choice.encoder
    scorer = Scorer(choice, named_encoder(encoder), parts, given["fps"])
    records = _scored(pairs, scorer)
    beside = list(scorer.sentinels(pairs)) if given["sentinels"] else []
    scores = scores_record(records, choice, encoder, parts.metrics, beside)
    _tell(scores, given["out"], given["as_json"])
    sys.exit(1 if any(record.get("problem") for record in records) else 0)


def _choice(given: dict[str, Any], registry: Any) -> Choice:
    from ablations.choice import PRESET, choose
    from metrics.presets import PRESETS

    names = [PRESET + name for name in given["presets"]]
    names += [name.strip() for name in given["metrics"].split(",") if name.strip()]
    if not names:
        allowed = f"--preset {', '.join(PRESETS)}, or --metrics ID,ID"
        fix = "without weights: --metrics warp/source_flow,flicker/mae,motion/ratio"
        raise UserError(Problem("score", "no metric is named", allowed, fix))
    return choose(names, registry, given["encoder"], given["geometry"], given["flow"])


def _pairs(given: dict[str, Any], choice: Choice, registry: Any) -> list[Pair]:
    """Edited videos with sources, where a metric looks at these, and texts."""
    from ablations.scoring_pairs import pair_up
    from data_manifests.submissions import find_videos

    videos = find_videos(given["edited"])
    alone = tuple(n for n in choice.metrics if not _looks_at_source(registry.entry(n).extra))
    wanted = given["source"] and alone != choice.metrics
    sources = find_videos(given["source"]) if wanted else []
    return pair_up(videos, sources, _texts(given, videos), _wishes(given, alone))


def _looks_at_source(extra: Mapping[str, Any]) -> bool:
    return bool(NEEDS_SOURCE & set(extra["needs"])) or "least_clips" in extra


def _texts(given: dict[str, Any], videos: list[Video]) -> dict[str, Texts]:
    from data_manifests.submissions import Texts, read_texts

    if given["prompts"] is None:
        return {video.name: Texts(given["prompt"], given["source_prompt"]) for video in videos}
    if given["prompt"] or given["source_prompt"]:
        what = "cannot be combined with --prompt or --source-prompt"
        raise UserError(Problem("--prompts", what, fix="put all texts into the CSV"))
    return read_texts(given["prompts"], videos)


def _wishes(given: dict[str, Any], alone: tuple[str, ...]) -> Wishes:
    from ablations.scoring_pairs import Wishes, parse_frames

    chosen = {
        name: parse_frames(f"--{name.replace('_', '-')}", given[name]) if given[name] else None
        for name in ("edited_frames", "source_frames")
    }
    if given["align"] and any(chosen.values()):
        what = "cannot be combined with --edited-frames or --source-frames"
        raise UserError(Problem("--align found", what, fix="keep one"))
    return Wishes(**chosen, align=bool(given["align"]), resize=given["resize"] or "", alone=alone)


def _scored(pairs: list[Pair], scorer: Scorer) -> list[dict[str, Any]]:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    quiet = not console.is_terminal
    watched = track(pairs, "scoring", console=console, transient=True, disable=quiet)
    return [scorer.score(pair) for pair in watched]


def _tell(scores: dict[str, Any], out: Path | None, as_json: bool) -> None:
    from ablations.scoring_output import remarks, rich_table, write_scores

    written = write_scores(out, scores) if out else []
    if as_json:
        click.echo(json.dumps(scores, indent=2, ensure_ascii=False))
        return
    from rich.console import Console

    Console().print(rich_table(scores))
    for line in remarks(scores):
        click.echo(line)
    for path in written:
        click.echo(f"written: {path}")
