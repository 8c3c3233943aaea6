"""A seal on records: the sha256 of everything else in them, so that a changed one is noticed.

Torch-free.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crossframe.keys import identity, plain

SEAL = "record_sha256"


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record, as JSON data, with its seal; raises as `keys.plain` does."""
    data = plain(_bare(record))
    return {**data, SEAL: identity(data)}


def intact(record: Mapping[str, Any]) -> bool:
    """Tell whether a record is as it was sealed; those of earlier versions carry no seal."""
    if SEAL not in record:
        return True
    try:
        return bool(record[SEAL] == identity(_bare(record)))
    except (ValueError, RecursionError):  # NaN, or nested beyond reason: never written so
        return False


def _bare(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != SEAL}
