"""The planes of one row in order: their places, their steps, and what keeps them from a grid.

References
----------
.. [1] DICOM PS3.3 C.7.6.2.1.1 (position and orientation: the map to the patient), C.7.6.3.1.1
   (samples a pixel), C.11.1 (rescale).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from maskloop.core.geometry import Affine
    from maskloop.formats.base import Choices
    from maskloop.formats.dicom_head import Slice

_LEAST_MM = 1e-5  # a pixel or slice that is smaller has no size
RATIO = 4096  # no encoding shrinks real slices further; more is a header that lies
SAME_MM = 1e-3  # slices closer than this along the normal are at one place
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_Points = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a row is no regular grid.

    Parameters
    ----------
    name : str
        Short and fixed, such as ``"missing slices"``.
    words : str
        What was expected, what came, what to do.
    choices : tuple of str
        The flags that load it nevertheless.
    is_about_place : bool
        Whether the grid is at fault, not the files.
    """

    name: str
    words: str
    choices: tuple[str, ...] = ()
    is_about_place: bool = True

    def is_settled_by(self, choices: Choices) -> bool:
        """Whether the person's choices answer it."""
        given = {"--resample": choices.resample, "--fill-gap": choices.fill_gap}
        return any(given.get(flag, False) for flag in self.choices)


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """Planes sorted along their normal.

    Parameters
    ----------
    planes : list of Slice
        In order of rising height.
    right, down, normal : array of shape (3,)
        Directions along a row, along a column, and across, LPS+; empty where they are unknown.
    places : array of shape (n, 3)
        Centres of the first pixels, LPS+, in mm.
    heights : array of shape (n,)
        Places along the normal, in mm.
    usual : float
        The usual step in mm; the stated depth where there is one plane only.
    gaps : tuple of (int, int)
        Plane before a gap, and how many planes it lacks.
    tilt_degrees : float
        Between the line through the planes and their normal.
    problems : list of Problem
        Why this is not yet a grid.
    notes : list of str
        What a person should know of a grid that is one.
    """

    planes: list[Slice]
    right: _Points
    down: _Points
    normal: _Points
    places: _Points
    heights: _Points
    usual: float
    gaps: tuple[tuple[int, int], ...]
    tilt_degrees: float
    problems: list[Problem]
    notes: list[str]

    @property
    def steps(self) -> _Points:
        """Distances between neighbours along the normal, in mm."""
        return np.diff(self.heights)

    @property
    def missing(self) -> int:
        """How many planes the gaps lack."""
        return sum(count for _, count in self.gaps)

    @property
    def gaps_in_words(self) -> list[str]:
        """How many planes each gap lacks, and after which place along the normal."""
        return [f"{count} after {self.heights[at]:.2f} mm" for at, count in self.gaps]

    @property
    def tilt_note(self) -> str:
        """What to say of a tilt that the grid keeps; empty where there is none."""
        if not self.tilt_degrees:
            return ""
        return (
            f"tilted gantry: slices are stacked {self.tilt_degrees:.1f} degrees off their normal; "
            "the grid keeps this as a shear (--resample makes it upright)"
        )

    def blocking(self, choices: Choices) -> list[Problem]:
        """Return the problems that the person's choices do not settle."""
        return [p for p in self.problems if not p.is_settled_by(choices)]

    def affine(self, count: int, *, is_upright: bool = False) -> Affine:
        """Return the map from (z, y, x) to RAS+ mm for `count` planes from first to last.

        `is_upright` gives planes stacked along the normal, from the first plane's corner.
        """
        across = self.places[-1] - self.places[0]
        if is_upright:
            across = self.normal * float(across @ self.normal)
        step = self.normal * self.usual if len(self.planes) == 1 else across / (count - 1)
        height, width = self.planes[0].numbers("spacing")
        lps = np.eye(4)
        lps[:3, :3] = np.column_stack([step, self.down * height, self.right * width])
        lps[:3, 3] = self.places[0]
        return np.asarray(_LPS_TO_RAS @ lps)


def levels_of(planes: list[Slice]) -> list[int]:
    """Return for each plane the number of its height; planes at one height share it.

    Empty where a plane has no place.
    """
    axes = _axes(planes[0])
    places = [one.numbers("position") for one in planes]
    if axes is None or any(len(place) != 3 for place in places):
        return []
    heights = np.array(places) @ axes[2]
    order = np.argsort(heights, kind="stable")
    numbers = np.empty(len(planes), dtype=np.intp)
    numbers[order] = np.concatenate(([0], np.cumsum(np.diff(heights[order]) >= SAME_MM)))
    return [int(n) for n in numbers]


def stack_of(planes: list[Slice]) -> Stack:
    """Return the planes in order, with every problem named."""
    first = planes[0]
    faults = _unplaced(planes)
    axes = _axes(first)
    if faults or axes is None:
        if axes is None and not faults:
            faults = [_askew(first)]
        none = np.empty((0, 3))
        return Stack(planes, none, none, none, none, np.empty(0), 0.0, (), 0.0, faults, [])
    right, down, normal = axes
    places = np.array([one.numbers("position") for one in planes])
    order = np.argsort(places @ normal, kind="stable")
    planes, places = [planes[i] for i in order], places[order]
    heights = places @ normal
    usual, gaps, problems = _spaced(planes, heights)
    tilt, bent = _leaning(planes, places, heights, normal, usual)
    problems += bent if not problems or problems[0].name != "repeated positions" else []
    notes = []
    if len(planes) == 1 and usual > 0:
        notes.append(f"one slice only: its depth of {usual:g} mm is what the header states")
    if len(planes) == 2:
        notes.append("two slices only: a slice missing between them could not be noticed")
    if planes[0].words.get("padding") is not None:
        notes.append("pixels outside the scan hold a padding value, kept as it is stored")
    return Stack(planes, right, down, normal, places, heights, usual, gaps, tilt, problems, notes)


def _axes(one: Slice) -> tuple[_Points, _Points, _Points] | None:
    stated = one.numbers("orientation")
    if len(stated) != 6:
        return None
    right, down = np.array(stated).reshape(2, 3)
    normal = np.cross(right, down)
    if abs(np.linalg.norm(normal) - 1) > 1e-3 or abs(right @ down) > 1e-3:
        return None
    # Cosines have a few digits: without this, places far from the origin drift along the stack.
    return right, down, normal / np.linalg.norm(normal)


def _askew(one: Slice) -> Problem:
    return Problem(
        "damaged orientation",
        "expected two orthogonal unit vectors as orientation, got "
        f"{list(one.numbers('orientation'))!r}; the header is damaged",
    )


def _unplaced(planes: list[Slice]) -> list[Problem]:
    """Name what makes planes unfit for a volume whatever their order."""
    for one in planes:
        samples, bits = one.words.get("samples", 1), one.words.get("bits", 0)
        is_float = one.words.get("has_pixels") in (4, 8)
        odd = one.texts.get("problem", "")
        if odd:
            pass
        elif one.frames > 1:
            odd = "several frames in one file"
        elif samples != 1 or one.texts.get("photometric") == "PALETTE COLOR":
            odd = "colours"
        elif min(one.shape) < 1:
            odd = f"{one.shape[1]}x{one.shape[0]} pixels"
        elif not is_float and bits not in (8, 16, 32):
            odd = f"{bits} bits a pixel"
        if not odd and (unscaled := _unscaled(one)):
            msg = (
                f"expected a rescale slope and intercept that are numbers, got {unscaled} in "
                f"{one.path.name}; the values would mean nothing"
            )
            return [Problem("no rescale", msg, is_about_place=False)]
        if odd:
            msg = (
                f"expected gray slices, each with its place, got {odd} in {one.path.name}; convert "
                "the series to NIfTI first"
            )
            return [Problem("not gray slices", msg, is_about_place=False)]
        if len(one.numbers("position")) != 3 or len(one.numbers("orientation")) != 6:
            msg = (
                "expected the position and orientation of every slice, got none in "
                f"{one.path.name}; such a series has no place in space"
            )
            return [Problem("no position", msg)]
        spacing = one.numbers("spacing")
        if len(spacing) != 2 or min(spacing) < _LEAST_MM:
            msg = (
                f"expected the pixel spacing of every slice, got {list(spacing)!r} in "
                f"{one.path.name}; such a series has no size"
            )
            return [Problem("no pixel spacing", msg)]
        if (one.offset is not None and one.length < one.bytes) or one.size < one.bytes // RATIO:
            msg = (
                f"expected {one.bytes} bytes of pixels in {one.path.name}, got "
                f"{max(one.length, 0)}; the file was cut short: copy it again"
            )
            return [Problem("cut short", msg, is_about_place=False)]
    return []


def _unscaled(one: Slice) -> str:
    """Return what makes slope or intercept useless; empty where they are absent or fine."""
    for name in ("slope", "intercept"):
        if one.texts.get(name) and len(one.numbers(name)) != 1:
            return f"another {name}"
    return "a slope of 0" if one.numbers("slope") == (0.0,) else ""


def _spaced(
    planes: list[Slice], heights: _Points
) -> tuple[float, tuple[tuple[int, int], ...], list[Problem]]:
    """Return the usual step, the gaps, and what is wrong with the steps."""
    if len(planes) == 1:
        stated = (*planes[0].numbers("between"), *planes[0].numbers("thickness"), 0.0)[0]
        if stated >= _LEAST_MM:
            return stated, (), []
        msg = (
            "expected several slices or a slice thickness, got one slice without; its depth is "
            "not known"
        )
        return 0.0, (), [Problem("too few slices", msg)]
    steps = np.diff(heights)
    # The lower median: with every second slice missing the mean of two steps would be neither.
    usual = float(np.sort(steps)[(steps.size - 1) // 2])
    repeated = np.flatnonzero(steps < SAME_MM)
    if repeated.size:
        at = int(repeated[0])
        places = len(planes) - repeated.size
        held = (
            f"{len(planes)} pictures of one place" if places == 1 else f"{repeated.size} repeated"
        )
        msg = (
            f"expected each slice at its own place, got {held}, the first at {heights[at]:.2f} mm "
            f"({planes[at].path.name!r} and {planes[at + 1].path.name!r}), and nothing that tells "
            "them apart as phases or echoes; split them into folders"
        )
        return usual, (), [Problem("repeated positions", msg)]
    uneven = np.flatnonzero(np.abs(steps - usual) > max(0.01 * usual, 0.02))
    if not uneven.size:
        return usual, (), []
    gaps = tuple(
        (int(at), round(float(steps[at]) / usual) - 1)
        for at in uneven
        if steps[at] > usual and abs(steps[at] / usual - round(float(steps[at]) / usual)) < 0.05
    )
    if len(gaps) == uneven.size:
        return usual, gaps, [_gap(planes, steps, usual, gaps)]
    return usual, (), [_uneven(steps)]


def _gap(
    planes: list[Slice], steps: _Points, usual: float, gaps: tuple[tuple[int, int], ...]
) -> Problem:
    missing, at = sum(count for _, count in gaps), gaps[0][0]
    msg = (
        f"expected a slice every {usual:.3g} mm, got {missing} missing, the first between "
        f"{planes[at].path.name!r} and {planes[at + 1].path.name!r}, {steps[at]:.3g} mm apart; add "
        "the missing files"
    )
    if missing > len(planes):
        return Problem("missing slices", msg)
    return Problem(
        "missing slices", msg + ", or put computed slices there: --fill-gap", ("--fill-gap",)
    )


def _uneven(steps: _Points) -> Problem:
    found = Counter(round(float(step), 2) for step in steps)
    listed = ", ".join(f"{step:g} mm ({n} times)" for step, n in sorted(found.items())[:6])
    return Problem(
        "uneven spacing",
        f"expected equal steps between slices, got {listed}; resample the series to one step: "
        "--resample",
        ("--resample",),
    )


def _leaning(
    planes: list[Slice], places: _Points, heights: _Points, normal: _Points, usual: float
) -> tuple[float, list[Problem]]:
    """Return the tilt in degrees (0 where it is none), and whether planes leave their line."""
    depth = float(heights[-1] - heights[0])
    if depth < SAME_MM:
        return 0.0, []
    line = (places[-1] - places[0]) / depth
    off = np.linalg.norm(places - places[0] - np.outer(heights - heights[0], line), axis=1)
    lean = float(np.linalg.norm(line - normal))
    tilt = float(np.degrees(np.arctan(lean))) if lean > 0.01 else 0.0
    if off.max() <= max(0.05 * usual, 0.05):
        return tilt, []
    msg = (
        f"expected slices in one line, got {planes[int(off.argmax())].path.name!r} "
        f"{off.max():.2f} mm beside it; resample them from their true positions: --resample"
    )
    return tilt, [Problem("not in one line", msg, ("--resample",))]
