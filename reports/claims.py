"""Published statements put to the test: `individual > first > full on warp/source_flow`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from ablations.claims import Claim, Comparison, parse_claim
from crossframe.errors import Problem, UserError, did_you_mean
from reports.load import Run
from reports.statistics import Difference, clip_means, paired_difference

Verdict = Literal["supported", "contradicted", "undecided"]

MIN_CLIPS = 6
"""Below six clips even a unanimous sign has a two-sided probability above 5 % (2 / 2^5)."""


@dataclass(frozen=True)
class Finding:
    """What the run says on one comparison."""

    comparison: Comparison
    difference: Difference
    verdict: Verdict
    reason: str


@dataclass(frozen=True)
class Judgement:
    """A claim of the spec with its verdict; `findings` is empty when it could not be read."""

    text: str
    source: str
    paper: Mapping[str, float]
    verdict: Verdict
    reason: str
    findings: tuple[Finding, ...]


def judge_claims(run: Run) -> list[Judgement]:
    """Return a verdict for every claim of the spec, in its order."""
    return [_judge(run, entry) for entry in run.spec.get("claims", [])]


def _judge(run: Run, entry: Mapping[str, Any]) -> Judgement:
    source, paper = entry.get("source", ""), entry.get("paper", {})
    try:
        claim = parse_claim(entry["text"])
        _require_names(run, claim)
    except UserError as error:
        return Judgement(entry["text"], source, paper, "undecided", str(error), ())
    means = clip_means(run.scores, claim.metric)
    findings = tuple(_find(means, each, claim.metric) for each in claim.comparisons)
    verdict = overall([finding.verdict for finding in findings])
    reasons = [finding.reason for finding in findings if finding.verdict == verdict]
    return Judgement(claim.text, source, paper, verdict, "; ".join(reasons), findings)


def _require_names(run: Run, claim: Claim) -> None:
    labels = [row.label for row in run.rows]
    problems = [
        Problem("claims", f"no row {name!r}", ", ".join(labels), did_you_mean(name, labels))
        for name in claim.rows
        if name not in labels
    ]
    ids = [metric.id for metric in run.metrics]
    if claim.metric not in {*ids, *run.scores["metric"]}:
        fix = did_you_mean(claim.metric, ids)
        problems.append(Problem("claims", f"no metric {claim.metric!r}", ", ".join(ids), fix))
    if problems:
        raise UserError(problems)


def _find(means: pd.DataFrame, comparison: Comparison, metric: str) -> Finding:
    difference = paired_difference(means, comparison.left, comparison.right, metric)
    verdict, reason = weigh(difference, comparison.relation)
    return Finding(comparison, difference, verdict, reason)


def weigh(difference: Difference, relation: Literal["<", ">"]) -> tuple[Verdict, str]:
    """Return the verdict on `first relation second` with its reason, from the paired interval."""
    interval = difference.interval
    pair = f"{difference.first} {relation} {difference.second}"
    if interval.n < MIN_CLIPS:
        return "undecided", f"{pair}: {interval.n} common clips, {MIN_CLIPS} are needed"
    if not interval.excludes_zero:
        return "undecided", f"{pair}: the interval of the paired difference includes zero"
    below = interval.high < 0
    holds = below == (relation == "<")
    clips = f"{max(difference.positive, difference.negative)} of {interval.n} clips"
    side = "below" if below else "above"
    text = f"{pair}: the paired difference lies {side} zero ({clips})"
    return ("supported" if holds else "contradicted"), text


def overall(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the verdict of a chain: one contradiction breaks it, one doubt leaves it open."""
    if "contradicted" in verdicts:
        return "contradicted"
    return "supported" if verdicts and set(verdicts) == {"supported"} else "undecided"
