"""One change of a mask, and the row of changes that undo and redo walk along."""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.boxes import bounded, box_of, difference_box, shifted
from maskloop.core.errors import FormatError, InputError
from maskloop.core.image import smallest_unsigned
from maskloop.core.labels import Label, LabelTable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from maskloop.core.authors import Who
    from maskloop.core.geometry import Box

Ids = npt.NDArray[Any]  # Any: labels come in every integer width

_BYTE = np.dtype(np.uint8)


@dataclass(frozen=True, slots=True)
class Edit:
    """What one step changed: voxels inside a box, rows of the table, who and with what.

    Voxels are kept as packed differences: which of the box's voxels changed (one bit each), their
    ids before, their ids after and their authors before (one number where all are equal), each
    deflated. After the step all of them have the same author.

    Parameters
    ----------
    box : tuple of slice
        Tight box of the changed voxels, one slice an array axis; empty slices where none changed.
    voxels : int
        How many voxels changed their id or their author.
    dtype : str
        Little-endian type of the stored ids, such as ``"<u1"``.
    changed, before, after : bytes
        Deflated bit mask of the box, ids before, ids after.
    rows_before, rows_after : tuple of Label
        Rows of the table that were changed or removed, and that were changed or added.
    tool, author, words : str
        Name of the tool, person or model, and what the step is called in a list.
    kind : {"", "person", "tool", "model"}
        Who the author is: voxels painted by a person are kept from tools and models.
    number : int
        The author's number in the case; 0 where nobody is known.
    authors_before : bytes
        Packed author numbers of the changed voxels; empty where authors are not kept.
    mask : str
        Which mask of the case changed; the first where empty.
    time : float
        Seconds since 1970 began, UTC; 0 where unknown.
    about : mapping
        JSON-ready facts, such as the tool's options or the model, its hashes and its device.
    """

    box: Box
    voxels: int = 0
    dtype: str = "<u1"
    changed: bytes = b""
    before: bytes = b""
    after: bytes = b""
    rows_before: tuple[Label, ...] = ()
    rows_after: tuple[Label, ...] = ()
    tool: str = ""
    author: str = ""
    words: str = ""
    kind: Who = ""
    number: int = 0
    authors_before: bytes = b""
    mask: str = ""
    time: float = 0.0
    about: Mapping[str, Any] = field(default_factory=dict)  # Any: plain JSON values

    @classmethod
    def between(
        cls,
        before: Ids,
        after: Ids,
        *,
        box: Box | None = None,
        labels: tuple[LabelTable, LabelTable] | None = None,
        tool: str = "",
        author: str = "",
        words: str = "",
        kind: Who = "",
        number: int = 0,
        authors: npt.NDArray[np.uint8] | None = None,
        claimed: npt.NDArray[np.bool_] | None = None,
    ) -> Edit:
        """Return the edit that turns `before` into `after`.

        Parameters
        ----------
        before, after : array of int
            Ids >= 0 of one shape; the types may differ.
        box : tuple of slice, optional
            Where voxels may differ; nothing outside it is looked at or copied. If `before` has the
            shape of the box rather than that of `after`, it is taken as the box's old content.
        labels : pair of LabelTable, optional
            The table before and after.
        tool, author, words, kind, number
            As for `Edit`; `words` default to the tool's name.
        authors : array of uint8, optional
            Author numbers before, of the shape that the box has.
        claimed : array of bool, optional
            Voxels, of that shape, that take the new author even where their id stays.

        Raises
        ------
        InputError
            If the shapes differ.
        """
        within = bounded(box, after.shape)
        new = after[within]
        old = before[within] if before.shape == after.shape else before
        if old.shape != new.shape:
            msg = (
                f"expected ids of shape {after.shape} before and after, got {before.shape}; "
                "compare masks of one grid"
            )
            raise InputError(msg)
        removed, added = _row_changes(labels)
        rows = cls(
            box=tuple(slice(0, 0) for _ in after.shape),
            rows_before=removed,
            rows_after=added,
            tool=tool,
            author=author,
            words=words or tool,
            kind=kind,
            number=number,
        )
        gained = None
        if claimed is not None and authors is not None:
            gained = (claimed & (authors != number)) | (old != new)
        found = difference_box(old, new) if gained is None else box_of(gained, 1)
        if found is None:
            return rows
        old, new = old[found], new[found]
        changed = old != new if gained is None else gained[found]
        ids_before, ids_after = old[changed], new[changed]
        dtype = smallest_unsigned(max(int(ids_before.max()), int(ids_after.max()))).newbyteorder(
            "<"
        )
        return replace(
            rows,
            box=shifted(found, [part.start for part in within]),
            voxels=int(ids_before.size),
            dtype=dtype.str.replace("|", "<"),
            changed=zlib.compress(np.packbits(changed).tobytes(), 1),
            before=_packed(ids_before, dtype),
            after=_packed(ids_after, dtype),
            authors_before=b"" if authors is None else _packed(authors[found][changed], _BYTE),
        )

    @property
    def is_empty(self) -> bool:
        """Whether neither a voxel nor a row changed."""
        return not self.voxels and not self.rows_before and not self.rows_after

    @property
    def nbytes(self) -> int:
        """Bytes of the packed voxels."""
        return sum(map(len, self._parts))

    @property
    def _parts(self) -> tuple[bytes, ...]:
        return self.changed, self.before, self.after, self.authors_before

    def moved(self, starts: Iterable[int]) -> Edit:
        """Return the same step on a larger array, in which this one's array begins at `starts`."""
        if not self.voxels:
            return self
        return replace(self, box=shifted(self.box, starts))

    def apply(self, ids: Ids, authors: npt.NDArray[np.uint8] | None = None) -> Box:
        """Write what the step made into `ids` and `authors`, in place; return the changed box.

        Raises
        ------
        InputError
            If `ids` does not hold what it held before the step, or its type is too narrow;
            nothing is written then.
        """
        return self._write(ids, authors, is_back=False)

    def revert(self, ids: Ids, authors: npt.NDArray[np.uint8] | None = None) -> Box:
        """Write what was before the step into `ids` and `authors`; the opposite of `apply`."""
        return self._write(ids, authors, is_back=True)

    def ids_after(self, *, is_back: bool = False) -> list[int]:
        """Return the ids that the changed voxels have after the step (before it, if `is_back`)."""
        if not self.voxels:
            return []
        return [int(i) for i in np.unique(self._ids(self.before if is_back else self.after))]

    def table_after(self, labels: LabelTable) -> LabelTable:
        """Return the table with the step's rows applied."""
        return labels.without(row.id for row in self.rows_before).with_rows(self.rows_after)

    def table_before(self, labels: LabelTable) -> LabelTable:
        """Return the table with the step's rows reverted."""
        return labels.without(row.id for row in self.rows_after).with_rows(self.rows_before)

    def _write(self, ids: Ids, authors: npt.NDArray[np.uint8] | None, *, is_back: bool) -> Box:
        if not self.voxels:
            return self.box
        if len(self.box) != ids.ndim or any(
            part.stop > n for part, n in zip(self.box, ids.shape, strict=True)
        ):
            msg = (
                f"expected a mask that holds the box {self.box}, got shape {ids.shape}; undo on "
                "the mask that was edited"
            )
            raise InputError(msg)
        region = ids[self.box]
        changed = self._mask(region.shape)
        old, new = self._ids(self.before), self._ids(self.after)
        if is_back:
            old, new = new, old
        if not np.array_equal(region[changed], np.broadcast_to(old, self.voxels)):
            msg = (
                f"expected the voxels as step {self.words!r} left them, got others in {self.box}; "
                f"undo and redo steps in their order"
            )
            raise InputError(msg)
        highest = int(new.max())
        if highest > np.iinfo(ids.dtype).max:
            msg = (
                f"expected a mask that can hold id {highest}, got {ids.dtype}; widen its type first"
            )
            raise InputError(msg)
        region[changed] = new
        if authors is not None and self.authors_before:
            before = np.frombuffer(zlib.decompress(self.authors_before), np.uint8)
            authors[self.box][changed] = before if is_back else self.number
        return self.box

    def _mask(self, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
        count = int(np.prod(shape))
        bits = np.frombuffer(zlib.decompress(self.changed), np.uint8)
        return np.unpackbits(bits, count=count).view(bool).reshape(shape)

    def _ids(self, packed: bytes) -> Ids:
        return np.frombuffer(zlib.decompress(packed), self.dtype)

    def to_bytes(self) -> bytes:
        """Return the edit as one record: a JSON head, then the packed parts."""
        plain = Edit(self.box)
        head = {
            "box": [[part.start, part.stop] for part in self.box],
            "parts": [len(part) for part in self._parts],
            **{
                name: getattr(self, name)
                for name in _PLAIN
                if getattr(self, name) != getattr(plain, name)
            },
            **{
                name: LabelTable(getattr(self, name)).to_rows()
                for name in ("rows_before", "rows_after")
                if getattr(self, name)
            },
        }
        text = json.dumps(head, separators=(",", ":")).encode()
        return b"".join((struct.pack("<I", len(text)), text, *self._parts))

    @classmethod
    def from_bytes(cls, record: bytes) -> Edit:
        """Rebuild an edit from `to_bytes`.

        Raises
        ------
        FormatError
            If the record is not one.
        """
        try:
            (size,) = struct.unpack_from("<I", record)
            head = json.loads(record[4 : 4 + size])
            parts, start = [], 4 + size
            for length in head["parts"]:
                parts.append(record[start : start + length])
                start += length
            changed, before, after, authors_before = parts
            return cls(
                box=tuple(slice(first, stop) for first, stop in head["box"]),
                changed=changed,
                before=before,
                after=after,
                authors_before=authors_before,
                rows_before=_rows(head.get("rows_before")),
                rows_after=_rows(head.get("rows_after")),
                **{name: head[name] for name in _PLAIN if name in head},
            )
        except (struct.error, ValueError, KeyError, TypeError) as error:
            msg = f"expected the record of an edit, got {record[:24]!r}...; the journal is damaged"
            raise FormatError(msg) from error


# Fields that a record holds as they are, left out at their defaults.
_PLAIN = ("voxels", "dtype", "tool", "author", "words", "kind", "number", "mask", "time", "about")


def _rows(found: list[Mapping[str, Any]] | None) -> tuple[Label, ...]:  # Any: plain JSON values
    return tuple(LabelTable.from_rows(found).values()) if found else ()


class History:
    """Named steps in order, and how many of them are in the mask now.

    Parameters
    ----------
    edits : sequence of Edit
        Steps already applied.

    Examples
    --------
    >>> ids = np.zeros((4, 4), np.uint8)
    >>> edit = Edit.between(ids, np.eye(4, dtype=np.uint8), tool="brush")
    >>> history = History()
    >>> history.apply(edit, ids)
    (slice(0, 4, None), slice(0, 4, None))
    >>> history.undo(ids).words, int(ids.sum())
    ('brush', 0)
    """

    def __init__(self, edits: Sequence[Edit] = ()) -> None:
        self._edits = list(edits)
        self._position = len(self._edits)

    def __len__(self) -> int:
        return len(self._edits)

    def __iter__(self) -> Iterator[Edit]:
        return iter(self._edits)

    @property
    def position(self) -> int:
        """How many steps are applied, 0 to ``len(history)``."""
        return self._position

    @property
    def steps(self) -> list[str]:
        """Return the words of every step, oldest first; those past `position` are undone."""
        return [edit.words for edit in self._edits]

    @property
    def can_undo(self) -> bool:
        """Whether a step is left to undo."""
        return self._position > 0

    @property
    def can_redo(self) -> bool:
        """Whether an undone step is left to redo."""
        return self._position < len(self._edits)

    @property
    def nbytes(self) -> int:
        """Bytes that the packed voxels of all steps take."""
        return sum(edit.nbytes for edit in self._edits)

    @property
    def last(self) -> Edit | None:
        """The step that `undo` would take back."""
        return self._edits[self._position - 1] if self.can_undo else None

    @property
    def next(self) -> Edit | None:
        """The step that `redo` would do again."""
        return self._edits[self._position] if self.can_redo else None

    def push(self, edit: Edit) -> None:
        """Add a step whose voxels are already in the mask; undone steps are forgotten."""
        del self._edits[self._position :]
        self._edits.append(edit)
        self._position += 1

    def apply(self, edit: Edit, ids: Ids, authors: npt.NDArray[np.uint8] | None = None) -> Box:
        """Write a new step into `ids`, in place, and add it."""
        box = edit.apply(ids, authors)
        self.push(edit)
        return box

    def undo(self, ids: Ids, authors: npt.NDArray[np.uint8] | None = None) -> Edit | None:
        """Revert the last applied step in `ids`, in place; return it, or None if there is none."""
        edit = self.last
        if edit is not None:
            edit.revert(ids, authors)
            self._position -= 1
        return edit

    def redo(self, ids: Ids, authors: npt.NDArray[np.uint8] | None = None) -> Edit | None:
        """Apply the next undone step to `ids`, in place; return it, or None if there is none."""
        edit = self.next
        if edit is not None:
            edit.apply(ids, authors)
            self._position += 1
        return edit

    def require(self, position: int) -> None:
        """Raise `InputError` unless `position` steps can be applied."""
        if not 0 <= position <= len(self._edits):
            msg = f"expected a step from 0 to {len(self._edits)}, got {position!r}; choose another"
            raise InputError(msg)

    def go_to(
        self, position: int, ids: Ids, authors: npt.NDArray[np.uint8] | None = None
    ) -> list[Edit]:
        """Undo or redo in `ids`, in place, until `position` steps are applied; return the walk."""
        self.require(position)
        walked = []
        while self._position != position:
            step = self.undo if self._position > position else self.redo
            if (edit := step(ids, authors)) is not None:
                walked.append(edit)
        return walked


def _packed(ids: Ids, dtype: np.dtype[Any]) -> bytes:  # Any: the width is chosen at run time
    first = ids[:1]
    kept = first if (ids == first).all() else ids
    return zlib.compress(kept.astype(dtype, copy=False).tobytes(), 1)


def _row_changes(
    labels: tuple[LabelTable, LabelTable] | None,
) -> tuple[tuple[Label, ...], tuple[Label, ...]]:
    if labels is None:
        return (), ()
    old, new = labels
    removed = tuple(row for i, row in old.items() if new.get(i) != row)
    added = tuple(row for i, row in new.items() if old.get(i) != row)
    return removed, added
