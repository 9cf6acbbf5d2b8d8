"""Options that several tools share: their types, bounds and words, each written once."""

from __future__ import annotations

from typing import Annotated, Literal

from maskloop.core.parameters import Points

StrokePath = Annotated[
    Points | None,
    {
        "shape": "path",
        "label": "path",
        "tooltip": "Where the brush goes; give a position twice for a single dab.",
    },
]
StrokeRadius = Annotated[
    float,
    {
        "min": 0.0,
        "max": 500.0,
        "step": 0.5,
        "label": "radius (mm; pixels in a picture)",
        "tooltip": "How near to the path the centre of a voxel must lie.",
    },
]
StrokeForm = Annotated[
    Literal["ball", "disc"],
    {
        "label": "brush",
        "tooltip": "A ball through the slices, or a disc on the slices of the path only.",
    },
]
SliceAxis = Annotated[
    Literal["auto", "z", "y", "x"],
    {
        "label": "slices across",
        "tooltip": "Array axis across the slice; auto: the one that the drawn points keep to.",
    },
]
PaintOver = Annotated[
    Literal["all", "background"],
    {
        "label": "paint over",
        "tooltip": "Other labels too, locked ones never, or background only.",
    },
]
PiecesAt = Annotated[
    Points | None,
    {
        "shape": "points",
        "label": "only the pieces at",
        "tooltip": "Points on the pieces to take; the whole label if left out.",
    },
]
Touching = Annotated[
    Literal["faces", "corners"],
    {
        "label": "pieces hang together by",
        "tooltip": "Voxels that share a face, or also those that share an edge or a corner.",
    },
]
