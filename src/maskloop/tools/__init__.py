"""The shelf of tools: plain functions from a mask to its new ids.

A tool is ``f(mask, image, *, label, <options>) -> ids``: a new array of unsigned ids on the mask's
grid, one spatial frame at a time. It may change voxels of its own label and of the background; of
other unlocked labels too where its traits (`base.traits`) say so. Its signature is its form in
napari and its flags on the command line.
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
        "hollow": "maskloop.tools.hollow:hollow",
        "interpolate": "maskloop.tools.interpolate:interpolate",
        "copy_slice": "maskloop.tools.copy_slice:copy_slice",
        "split": "maskloop.tools.split:split",
        "merge": "maskloop.tools.merge:merge",
        "relabel": "maskloop.tools.relabel:relabel",
        "delete": "maskloop.tools.delete:delete",
        "logic": "maskloop.tools.logic:logic",
        "threshold": "maskloop.tools.threshold:threshold",
        "brush": "maskloop.tools.brush:brush",
        "paint_range": "maskloop.tools.paint_range:paint_range",
        "scissors": "maskloop.tools.scissors:scissors",
        "livewire": "maskloop.tools.livewire:livewire",
        "region": "maskloop.tools.region:region",
        "lesion": "maskloop.tools.lesion:lesion",
        "seeds": "maskloop.tools.seeds:seeds",
        "walker": "maskloop.tools.walker:walker",
    },
)
