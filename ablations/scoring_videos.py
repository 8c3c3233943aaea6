"""Scores of videos that were made elsewhere, by the function that scores the cells of a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from ablations.bench import to_tensor
from ablations.choice import Choice
from ablations.parts import Parts
from ablations.scoring_align import likeness, outlines, written
from ablations.scoring_pairs import Pair, read_pair
from crossframe.errors import Diverged, UserError
from crossframe.flow.estimators import both_ways
from crossframe.flow.fields import FlowFields
from crossframe.keys import array_sha256
from metrics.base import Memo, MetricInputs
from metrics.score import measure


class Scorer:
    """Scores pair after pair; networks and the last source's flow stay.

    encoder: a folder, a hub id or `open_clip:MODEL/FILE`. fps: rate of the frames that are scored,
    None to take that of each video.
    """

    def __init__(
        self, choice: Choice, encoder: str, parts: Parts, fps: float | None = None
    ) -> None:
        self.choice, self.folder, self.parts, self.fps = choice, encoder, parts, fps
        self.estimator = parts.estimator(choice.flow)
        self.resident = Memo()
        self._flow: tuple[str, FlowFields] | None = None

    @cached_property
    def encoder(self) -> Any:
        """The CLIP of the metrics; raises NotAvailable when its weights are absent."""
        return self.parts.load_encoder(self.folder, self.choice.geometry)

    def score(self, pair: Pair) -> dict[str, Any]:
        """Return the record of a pair: what it is, and its metrics by id.

        A video that cannot be read has `problem` instead of metrics.
        """
        record = _facts(pair)
        try:
            edited, source = read_pair(pair)
        except UserError as error:
            return {**record, "problem": str(error), "metrics": {}}
        if source is not None:
            record["likeness"] = likeness(outlines(edited), outlines(source))
        inputs = self._inputs(pair, edited, source, Memo())
        metrics = {name: self._measure(name, inputs, source) for name in self.choice.metrics}
        for name, entry in metrics.items():
            if "features" in entry and inputs.source is not None:
                entry["source"] = self._measure(name, self._source_of(inputs), source)
        return {**record, "frames_sha256": array_sha256(edited), "metrics": metrics}

    def sentinels(self, pairs: Sequence[Pair]) -> Iterator[dict[str, Any]]:
        """Yield records of the sources themselves and of their first frames, repeated.

        One of each per source, its frames and its prompt; what only depends on the pictures is
        computed once per source. Pairs without a source, and unreadable ones, give none.
        """
        seen: set[Any] = set()
        memos: dict[Any, Memo] = {}
        for pair in (pair for pair in pairs if pair.source is not None):
            shown = (pair.source, pair.source_frames, pair.size)
            if (shown, pair.texts) in seen:
                continue
            seen.add((shown, pair.texts))
            try:
                source = read_pair(pair)[1]
            except UserError:
                continue
            assert source is not None
            for kind, frames in (
                ("source", source),
                ("frozen", np.repeat(source[:1], len(source), 0)),
            ):
                memo = memos.setdefault((shown, kind), Memo())
                inputs = self._inputs(pair, frames, source, memo)
                metrics = {
                    name: self._measure(name, inputs, source) for name in self.choice.metrics
                }
                yield {"sentinel": kind, "clip": pair.video.clip, "metrics": metrics}

    def _inputs(
        self, pair: Pair, frames: np.ndarray, source: np.ndarray | None, memo: Memo
    ) -> MetricInputs:
        return MetricInputs(
            to_tensor(frames),
            None if source is None else to_tensor(source),
            pair.texts.prompt,
            source_prompt=pair.texts.source_prompt,
            fps=self._rate(pair),
            estimator=self.estimator,
            memo=memo,
            resident=self.resident,
        )

    def _measure(
        self, name: str, inputs: MetricInputs, source: np.ndarray | None
    ) -> dict[str, Any]:
        flow = None if source is None else lambda: self._flow_of(source)
        try:
            value = measure(
                name,
                inputs,
                flow=flow,
                encoder=lambda: self.encoder,
                registry=self.parts.metrics,
            )
        except Diverged as error:
            return {"unavailable": str(error)}
        return value.record()

    def _source_of(self, inputs: MetricInputs) -> MetricInputs:
        """The source as a video to be measured: the other set of a distance between sets."""
        assert inputs.source is not None
        return MetricInputs(inputs.source, estimator=self.estimator, resident=self.resident)

    def _flow_of(self, source: np.ndarray) -> FlowFields:
        """The flow of a source; several edits of one source follow each other."""
        mark = array_sha256(source)
        if self._flow is None or self._flow[0] != mark:
            self._flow = (mark, both_ways(self.estimator, source))
        return self._flow[1]

    def _rate(self, pair: Pair) -> float | None:
        if self.fps is not None or pair.shape.fps is None:
            return self.fps
        return pair.shape.fps / pair.frames.step


def _facts(pair: Pair) -> dict[str, Any]:
    height, width = pair.size
    return {
        "video": pair.video.name,
        "clip": pair.video.clip,
        "kind": pair.video.kind,
        "edited": str(pair.video.path),
        "edited_frames": written(pair.frames),
        "edited_size": pair.shape.size,
        "source": str(pair.source.path) if pair.source else None,
        "source_frames": written(pair.source_frames) if pair.source else None,
        "source_size": pair.source_shape.size if pair.source_shape else None,
        "frames_from": pair.how,
        "frames": len(pair.frames),
        "scored_size": f"{width}x{height}",
        "prompt": pair.texts.prompt,
        "source_prompt": pair.texts.source_prompt,
        "notes": list(pair.notes),
    }
