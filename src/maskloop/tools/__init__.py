"""The shelf of tools: plain functions from a mask to its new ids.

A tool is ``f(mask, image, *, label, <options>) -> ids``: a new array of unsigned ids on the mask's
grid, one spatial frame at a time. It may change voxels of its own label and of the background, and
nothing else. Its signature is its form in napari and its flags on the command line.
"""

from __future__ import annotations

from maskloop.core.registry import Registry

TOOLS = Registry(
    what="tool",
    group="maskloop.tools",
    entries={
        "islands": "maskloop.tools.islands:islands",
        "holes": "maskloop.tools.holes:holes",
        "smooth": "maskloop.tools.smooth:smooth",
        "grow": "maskloop.tools.grow:grow",
        "threshold": "maskloop.tools.threshold:threshold",
    },
)
