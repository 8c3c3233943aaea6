"""Which metrics are wanted, and with which encoder, preprocessing and flow. Torch-free.

Metrics are named by id or as `preset:NAME`, a published evaluation, which also chooses encoder,
geometry and flow; what is named beside it wins.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from crossframe.errors import Problem, UserError, did_you_mean
from crossframe.flow.table import FLOWS
from crossframe.registry import Registry
from metrics.identity import FLOW_NEEDS
from metrics.preprocessing import GEOMETRIES
from metrics.presets import PRESETS, Preset

PRESET = "preset:"
AUTO = "auto"
DEFAULTS: Mapping[str, str] = {"encoder": AUTO, "geometry": "own", "flow": "dis"}
"""What holds where neither the user nor a preset says anything."""


@dataclass(frozen=True)
class Choice:
    """Metrics by id, without repetition, and what they are computed with.

    encoder: a name for `Parts.encoder_folder`; "auto" goes with the backbone. geometry: a name of
    `GEOMETRIES`. flow: a name of `FLOWS`.
    """

    metrics: tuple[str, ...]
    encoder: str = DEFAULTS["encoder"]
    geometry: str = DEFAULTS["geometry"]
    flow: str = DEFAULTS["flow"]


def choose(
    names: Sequence[str], registry: Registry, encoder: str, geometry: str, flow: str
) -> Choice:
    """Resolve presets; "auto" leaves a setting to them.

    Raises one UserError with every unknown name, and every setting on which two presets disagree
    while none is named; places are `metrics[0]`, `geometry` and the like.
    """
    given = {"encoder": encoder, "geometry": geometry, "flow": flow}
    problems = [*_unknown_names(names, registry), *_unknown_settings(given)]
    named = [name.removeprefix(PRESET) for name in names if name.startswith(PRESET)]
    presets = {name: PRESETS[name] for name in named if name in PRESETS}
    wishes = {setting: _wishes(setting, presets, registry) for setting in given}
    problems += _quarrels(wishes, given)
    if problems:
        raise UserError(problems)
    settled = {
        setting: next(iter(wishes[setting].values()), DEFAULTS[setting]) if word == AUTO else word
        for setting, word in given.items()
    }
    return Choice(tuple(dict.fromkeys(_expanded(names))), **settled)


def _expanded(names: Iterable[str]) -> Iterable[str]:
    for name in names:
        if name.startswith(PRESET):
            yield from PRESETS[name.removeprefix(PRESET)].metrics
        else:
            yield name


def _unknown_names(names: Sequence[str], registry: Registry) -> Iterable[Problem]:
    for index, name in enumerate(names):
        where, word = f"metrics[{index}]", name.removeprefix(PRESET)
        if name.startswith(PRESET):
            if word not in PRESETS:
                allowed, fix = ", ".join(PRESETS), did_you_mean(word, PRESETS)
                yield Problem(where, f"unknown preset {word!r}", allowed, fix)
        elif name not in registry:
            known = registry.names()
            fix = did_you_mean(name, known)
            if name in PRESETS:
                fix = f"write {PRESET}{name}"
            yield Problem(where, f"unknown {registry.kind} {name!r}", ", ".join(known), fix)


def _unknown_settings(given: Mapping[str, str]) -> Iterable[Problem]:
    for setting, known in (("geometry", tuple(GEOMETRIES)), ("flow", FLOWS.names())):
        word = given[setting]
        if word != AUTO and word not in known:
            allowed = ", ".join((AUTO, *known))
            yield Problem(
                setting, f"unknown {setting} {word!r}", allowed, did_you_mean(word, known)
            )


def _wishes(setting: str, presets: Mapping[str, Preset], registry: Registry) -> dict[str, str]:
    """What each preset sets, by its name; presets that have no use for a setting are left out."""
    wanting = {"encoder": {"clip"}, "geometry": {"clip"}, "flow": FLOW_NEEDS}[setting]
    return {
        name: getattr(preset, setting)
        for name, preset in presets.items()
        if any(
            wanting & set(registry.entry(metric).extra.get("needs", ()))
            for metric in preset.metrics
            if metric in registry
        )
    }


def _quarrels(
    wishes: Mapping[str, Mapping[str, str]], given: Mapping[str, str]
) -> Iterable[Problem]:
    for setting, by_preset in wishes.items():
        if given[setting] == AUTO and len(set(by_preset.values())) > 1:
            shown = ", ".join(f"{name} wants {value}" for name, value in by_preset.items())
            what = f"the presets disagree: {shown}"
            yield Problem(setting, what, fix=f"name one as {setting}")
