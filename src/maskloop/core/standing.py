"""How far the work on one image is: its status, whose it is, and who reviewed it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, get_args

from maskloop.core.errors import FormatError, StorageError
from maskloop.core.files import put

if TYPE_CHECKING:
    from pathlib import Path

Progress = Literal["unseen", "in work", "done", "flagged"]
STATUSES: tuple[Progress, ...] = get_args(Progress)
_FILE = "standing.json"


@dataclass(frozen=True, slots=True)
class Standing:
    """How far an image is.

    Parameters
    ----------
    status : {"unseen", "in work", "done", "flagged"}
    assignee : str
        Who works on it; empty where nobody was named.
    reviewer : str
        Who looked at it when it was done; empty where nobody did.
    """

    status: Progress = "unseen"
    assignee: str = ""
    reviewer: str = ""

    @classmethod
    def of(cls, found: Any) -> Standing:  # Any: plain JSON values
        """Return what a mapping holds; fields that are unknown or odd are left out."""
        known = found if isinstance(found, dict) else {}
        kept = {f.name: known[f.name] for f in fields(cls) if isinstance(known.get(f.name), str)}
        if kept.get("status") not in STATUSES:
            kept.pop("status", None)
        return cls(**kept)


def standing_of(case: Path) -> Standing | None:
    """Return how far a case folder (``NAME.maskloop``) says it is; None where it says nothing.

    Raises
    ------
    FormatError
        If its file holds something else.
    """
    try:
        found = json.loads((case / _FILE).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        msg = (
            f"expected the status of {case.name} in {_FILE}, got {error}; delete that file and "
            "set the status again"
        )
        raise FormatError(msg) from error
    return Standing.of(found)


def put_standing(case: Path, standing: Standing) -> None:
    """Write how far a case is into its folder, whole or not at all.

    Raises
    ------
    StorageError
        If the disk refuses; what was there before stays.
    """
    try:
        mode = case.stat().st_mode & 0o666
        put(case / _FILE, json.dumps(asdict(standing), indent=1).encode(), mode=mode)
    except OSError as error:
        msg = (
            f"expected to write the status of {case.name}, got {error.strerror or error}; free "
            "space or choose a workspace that can be written"
        )
        raise StorageError(msg) from error
