"""The image after this one: read, and drafted by a model, while this one is being corrected."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, Signal

from maskloop import __version__
from maskloop.core.dataset import Dataset, Item
from maskloop.core.job import Job
from maskloop.gui import layers
from maskloop.gui.placement import Placement
from maskloop.gui.runner import Run

if TYPE_CHECKING:
    from maskloop.desk.items import Opened

_SPARE = 1 << 30  # bytes that are left to everything else
_COPIES = 4  # of an image: its pixels, those shown, ids, and what a network holds of both


@dataclass(frozen=True, slots=True, eq=False)
class Ready:
    """An item that only needs to be added to the window.

    Parameters
    ----------
    opened : Opened
    image : list of layer data
        Empty where the dataset has no pixels at hand.
    masks : list of layer data
        Empty where the item has a case.
    place : Placement, optional
        Where the pixels lie.
    name : str
        Of the image's layer.
    """

    opened: Opened
    image: list[layers.LayerData]
    masks: list[layers.LayerData]
    place: Placement | None
    name: str

    @property
    def item(self) -> Item:
        """Which one it is."""
        return self.opened.item

    @property
    def nbytes(self) -> int:
        """Bytes of pixels and ids."""
        return sum(int(data[0].nbytes) for data in (*self.image, *self.masks))


@dataclass(frozen=True, slots=True, eq=False)
class Drafted:
    """What a model drew for an item, and what its case keeps of that."""

    item: Item
    found: Any  # Any: a Prediction; its type would import the loop
    facts: dict[str, Any] = field(default_factory=dict)  # Any: plain JSON values


@dataclass(frozen=True, slots=True)
class Drafter:
    """The model to draft with.

    Parameters
    ----------
    model, device : str
    ndim : tuple of int
        How many spatial axes an image may have.
    nbytes : int
        Memory of one pass, where its card tells; else 0.
    """

    model: str
    device: str
    ndim: tuple[int, ...]
    nbytes: int = 0


def prepare(dataset: Dataset, item: Item, workspace: Path | None, job: Job) -> Ready:
    """Read an item and make its layers' data; in any thread."""
    from maskloop.desk.items import open_item

    opened = open_item(dataset, item, workspace=workspace, job=job)
    job.check()
    image = [] if opened.image is None else layers.image_layers(opened.image)
    name = str(image[0][1]["name"]) if image else item.name.rpartition("/")[2]
    masks = [
        layers.mask_layer(mask, name=f"{name}_labels{f' {number}' if number > 1 else ''}")
        for number, mask in enumerate(opened.masks, start=1)
    ]
    place = None if opened.image is None else Placement.of(opened.image)
    return Ready(opened, image, masks, place, name)


class Ahead(QObject):
    """Reads one item beside the window, then lets a model draft it.

    Parameters
    ----------
    is_busy : callable
        Whether the person has something running: a draft then waits, so that no two models take
        memory at once.
    parent : QObject

    Signals
    -------
    read(Ready), drafted(Drafted), failed(str, str)
        In the window's thread; `failed` takes the item's name and why.
    said(str)
        What is being done, or why not; empty when nothing is.
    """

    read = Signal(object)
    drafted = Signal(object)
    failed = Signal(str, str)
    said = Signal(str)

    def __init__(self, is_busy: Callable[[], bool], parent: QObject) -> None:
        super().__init__(parent)
        self._is_busy = is_busy
        self.drafter: Drafter | None = None
        self._ready: Ready | None = None
        self._reading: tuple[str, Run] | None = None
        self._drafting: tuple[Ready, Run] | None = None
        self._waiting: list[Ready] = []  # for the model to be free, the next one first
        self._done: dict[str, Drafted] = {}  # by the item's name, until it is shown
        self._predictor: tuple[Drafter, Any] | None = None  # Any: a Predictor

    # Reading

    def begin(self, dataset: Dataset, item: Item, workspace: Path | None, *, like: int = 0) -> None:
        """Read an item, unless it is there or on its way; `like` is what another one took."""
        if self.is_reading(item.name) or self.ready_of(item.name, keep=True) is not None:
            return
        self.forget_read()
        if _free() < like * _COPIES + _SPARE:
            self.said.emit("Too little memory is free to open the next image ahead.")
            return
        title = f"Reading {item.name}"
        run = Run(lambda job: prepare(dataset, item, workspace, job), title, self, is_quiet=True)
        run.done.connect(self._was_read)
        run.failed.connect(lambda words: self._read_failed(item.name, words))
        run.ended.connect(lambda: self._read_ended(run))
        self._reading = (item.name, run)
        run.start()

    def is_reading(self, name: str) -> bool:
        """Whether an item is being read now."""
        return self._reading is not None and self._reading[0] == name

    def ready_of(self, name: str, *, keep: bool = False) -> Ready | None:
        """Return an item that was read, once: it is given away."""
        found = self._ready
        if found is None or found.item.name != name:
            return None
        if not keep:
            self._ready = None
        return found

    def forget_read(self) -> None:
        """Let go of what was read, and stop reading."""
        self._ready = None
        if self._reading is not None:
            self._reading[1].stop()
            self._reading = None

    def _was_read(self, ready: Ready) -> None:
        self._ready = ready
        self.read.emit(ready)
        self.draft(ready)

    def _read_failed(self, name: str, words: str) -> None:
        self.failed.emit(name, words)

    def _read_ended(self, run: Run) -> None:
        if self._reading is not None and self._reading[1] is run:
            self._reading = None
        run.deleteLater()

    # Drafting

    def draft(self, ready: Ready, *, is_first: bool = False) -> None:
        """Let the model draft an item that nothing is drawn on yet, as soon as it is free."""
        drafter = self.drafter
        image = ready.opened.image
        if drafter is None or image is None or ready.opened.is_drawn:
            return
        if image.geometry.ndim not in drafter.ndim:
            self.said.emit(f"{drafter.model} cannot draft {ready.item.name}: it needs other axes.")
            return
        name = ready.item.name
        is_same = self._drafting is not None and self._drafting[0].item.name == name
        if is_same or name in self._done:
            return
        others = [one for one in self._waiting if one.item.name != name]
        self._waiting = [ready, *others] if is_first else [*others, ready]
        self.go_on()

    def go_on(self) -> None:
        """Begin the draft that waits, if nothing else runs."""
        drafter = self.drafter
        is_free = self._drafting is None and not self._is_busy()
        if not self._waiting or drafter is None or not is_free:
            return
        ready = self._waiting.pop(0)
        if _free() < ready.nbytes * _COPIES + drafter.nbytes + _SPARE:
            self.said.emit(f"Too little memory is free to draft {ready.item.name} ahead.")
            return
        title = f"Drafting {ready.item.name}"
        run = Run(lambda job: self._drawn(ready, drafter, job), title, self, is_quiet=True)
        run.done.connect(self._was_drafted)
        run.failed.connect(lambda words: self.failed.emit(ready.item.name, words))
        run.ended.connect(lambda: self._draft_ended(run))
        self._drafting = (ready, run)
        self.said.emit(f"{drafter.model} drafts {ready.item.name} ...")
        run.start()

    def pause(self) -> None:
        """Stop a draft that runs; it begins anew when `go_on` is called."""
        if self._drafting is not None:
            ready, run = self._drafting
            self._waiting.insert(0, ready)
            run.stop()

    def draft_of(self, name: str) -> Drafted | None:
        """Return what a model drew for an item, once: it is given away."""
        return self._done.pop(name, None)

    def keep_only(self, names: set[str]) -> None:
        """Stop drafting what is not wanted any more."""
        self._waiting = [one for one in self._waiting if one.item.name in names]
        self._done = {name: one for name, one in self._done.items() if name in names}
        if self._drafting is not None and self._drafting[0].item.name not in names:
            self._drafting[1].stop()

    def use(self, drafter: Drafter | None) -> None:
        """Draft with this model from now on, or with none."""
        if drafter == self.drafter:
            return
        self.drafter, self._predictor = drafter, None
        self.keep_only(set())
        self.said.emit("")
        if drafter is not None and self._ready is not None:
            self.draft(self._ready)

    def close(self) -> None:
        """Stop whatever runs."""
        self.drafter = self._predictor = None
        self.forget_read()
        self.keep_only(set())

    def _drawn(self, ready: Ready, drafter: Drafter, job: Job) -> Drafted:
        from maskloop.desk.draft import facts
        from maskloop.loop.predict import Predictor
        from maskloop.ops.device import spare_a_core

        spare_a_core()
        known = self._predictor
        if known is None or known[0] != drafter:
            known = (drafter, Predictor(drafter.model, drafter.device, job=job))
            self._predictor = known
        image = ready.opened.image
        if image is None:
            msg = "a draft was begun without pixels"
            raise RuntimeError(msg)
        found = known[1].predict(image, job, candidates=True)
        about = {**facts(found, known[1].card), "version": __version__}
        return Drafted(ready.item, found, about)

    def _was_drafted(self, drafted: Drafted) -> None:
        self._done[drafted.item.name] = drafted
        self.said.emit("")
        self.drafted.emit(drafted)

    def _draft_ended(self, run: Run) -> None:
        if self._drafting is not None and self._drafting[1] is run:
            self._drafting = None
        run.deleteLater()
        self.go_on()


def _free() -> int:
    """Return how many bytes of memory are free; psutil comes with napari."""
    import psutil  # type: ignore[import-untyped]  # it ships no types

    return int(psutil.virtual_memory().available)
