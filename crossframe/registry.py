"""Tables of named things that are imported only when asked for, open to other packages."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from importlib.metadata import Distribution, EntryPoint, distributions
from typing import Any

from crossframe.errors import Problem, UserError, did_you_mean


@dataclass(frozen=True)
class Entry:
    """One row of a registry; reading it imports nothing.

    target: `module:attribute`, imported by `Registry.load`.
    summary: one line for `crossframe list`.
    extra: facts the owner of the registry defines. `install`, if given, is the command that
        installs what `target` needs, and is printed when an import fails.
    """

    target: str
    summary: str
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Registry:
    """A read-only table of `Entry` by name, joined by the entry points of installed packages.

    kind: what the names are, for messages ("method", "metric").
    entries: the shipped rows.
    group: entry-point group. Each entry point must lead to an `Entry`; it is imported only when
        its own name is asked for, so that one broken package does not hide the other names.
    """

    kind: str
    entries: Mapping[str, Entry]
    group: str

    def names(self) -> tuple[str, ...]:
        """Return all names: the shipped ones in table order, then those of other packages."""
        foreign = sorted(name for name in self._foreign if name not in self.entries)
        return (*self.entries, *foreign)

    def entry(self, name: str) -> Entry:
        """Return the row called `name`.

        Raises UserError when there is none (with the nearest name), when another package claims
        a shipped name or two packages claim one, or when that package's entry point is broken.
        """
        foreign = self._foreign.get(name, ())
        shipped = self.entries.get(name)
        if len(foreign) + (shipped is not None) > 1:
            raise UserError(self._ambiguous(name, foreign, shipped is not None))
        if shipped is not None:
            return shipped
        if foreign:
            return self._read(foreign[0])
        raise UserError(
            Problem(
                self.kind,
                f"unknown {self.kind} {name!r}",
                allowed=", ".join(self.names()),
                fix=did_you_mean(name, self.names()),
            )
        )

    def load(self, name: str) -> Any:
        """Import and return the object behind `name`.

        Raises UserError as `entry` does, and when a package that the target needs is missing.
        """
        entry = self.entry(name)
        module_name, _, attribute = entry.target.partition(":")
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if _is_part_of(module_name, error.name):
                raise
            raise UserError(self._missing(name, entry, error)) from error
        return getattr(module, attribute)

    def __contains__(self, name: object) -> bool:
        return name in self.entries or name in self._foreign

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self.names())

    @cached_property
    def _foreign(self) -> Mapping[str, tuple[EntryPoint, ...]]:
        found: dict[str, tuple[EntryPoint, ...]] = {}
        for point in _points(tuple(sys.path), self.group):
            found[point.name] = (*found.get(point.name, ()), point)
        return found

    def _read(self, point: EntryPoint) -> Entry:
        where = f"{self.kind} {point.name!r} from {_origin(point)}"
        try:
            entry = point.load()
        except Exception as error:  # any failure of a foreign package is that package's problem
            what = f"its entry point {point.value} fails: {type(error).__name__}: {error}"
            fix = "update or uninstall that package"
            raise UserError(Problem(where, what, fix=fix)) from error
        if not isinstance(entry, Entry):
            what = f"its entry point {point.value} is a {type(entry).__name__}"
            raise UserError(Problem(where, what, allowed="crossframe.registry.Entry"))
        return entry

    def _ambiguous(self, name: str, foreign: tuple[EntryPoint, ...], shipped: bool) -> Problem:
        origins = (["crossframe"] if shipped else []) + [_origin(point) for point in foreign]
        return Problem(
            f"{self.kind} {name!r}",
            f"is provided by {' and by '.join(origins)}",
            fix="uninstall one of them, or have its author rename the entry point",
        )

    def _missing(self, name: str, entry: Entry, error: ModuleNotFoundError) -> Problem:
        install = entry.extra.get("install")
        fix = install or f"install the package that provides the module {error.name!r}"
        what = f"needs the module {error.name!r}, which is not installed"
        return Problem(f"{self.kind} {name!r}", what, fix=fix)


def _points(path: tuple[str, ...], group: str) -> list[EntryPoint]:
    """The entry points of a group; of a package that is on `path` twice, the first counts."""
    named: dict[str, Distribution] = {}
    for package, text in _installed(path):
        if group in text:
            named.setdefault(package.name, package)
    points = (point for package in named.values() for point in package.entry_points)
    return [point for point in points if point.group == group]


@lru_cache(maxsize=4)
def _installed(path: tuple[str, ...]) -> list[tuple[Distribution, str]]:
    """All packages on `path` with the text of their entry points: parsing all would take long."""
    packages = distributions(path=list(path))
    return [(package, package.read_text("entry_points.txt") or "") for package in packages]


def _is_part_of(module: str, missing: str | None) -> bool:
    """Tell whether the missing module is the target itself or lies in the target's own package."""
    return missing is None or missing.split(".")[0] == module.split(".")[0]


def _origin(point: EntryPoint) -> str:
    return f"the package {point.dist.name}" if point.dist else f"the module {point.module}"
