"""Progress of a sample that is made in phases of known size, some of them shared with others."""

from __future__ import annotations

from collections.abc import Mapping

from methods.base import Progress


class Phases:
    """Counts steps over all phases of a sample.

    sizes: steps of each phase, in the order in which they run; a phase that turns out to be shared
    is counted at once by `finish`.
    """

    def __init__(self, progress: Progress, sizes: Mapping[str, int]) -> None:
        self._progress = progress
        self._sizes = dict(sizes)
        self._total = sum(sizes.values())

    def of(self, phase: str) -> Progress:
        """Return the callback of one phase: (done, total) of that phase alone."""
        before = self._before(phase)
        return lambda done, total: self._progress(before + done, self._total)

    def finish(self, phase: str) -> None:
        """Count a phase as done."""
        if self._sizes[phase]:
            self._progress(self._before(phase) + self._sizes[phase], self._total)

    def _before(self, phase: str) -> int:
        names = list(self._sizes)
        return sum(self._sizes[name] for name in names[: names.index(phase)])
