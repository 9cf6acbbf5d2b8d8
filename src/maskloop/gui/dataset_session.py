"""A dataset open in the window: which image is shown, and how one leads to the next."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, Signal

from maskloop.core.dataset import Dataset, Item
from maskloop.core.errors import MaskloopError
from maskloop.core.job import Job
from maskloop.core.standing import Progress, Standing, put_standing
from maskloop.desk.worklist import Facts, Filter, Worklist, chosen, listed_facts, next_of
from maskloop.gui import layers
from maskloop.gui.dataset_ahead import Ahead, Drafted, Ready, prepare
from maskloop.gui.dataset_layers import draw_draft, is_labels, take_away
from maskloop.gui.host import Host, setting

if TYPE_CHECKING:
    from maskloop.core.case import Case


class Session(QObject):
    """Goes through the images of one dataset, saving on the way.

    Parameters
    ----------
    host : Host

    Attributes
    ----------
    dataset : Dataset, optional
        None where none is open.
    worklist : Worklist
    place : int, optional
        Which item is shown.
    order : list of int
        Places of the items that pass the filter.

    Signals
    -------
    listed()
        Another dataset, or other rows of it, are listed.
    marked()
        Statuses, people or counts are others.
    moved()
        Another item is shown, or none.
    stuck()
        What was done on the item shown cannot be brought to disk; `leave_unsaved` gives it up.
    """

    listed = Signal()
    marked = Signal()
    moved = Signal()
    stuck = Signal()

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self._host = host
        self.dataset: Dataset | None = None
        self.worklist = Worklist(Path())
        self.filter = Filter()
        self.place: int | None = None
        self.order: list[int] = []
        self.facts: dict[str, Facts] = {}
        self.ahead = Ahead(lambda: host.is_busy, self)
        self._shown: list[weakref.ref[Any]] = []
        self._source: Path | None = None
        self._nbytes = 0
        self._wanted: int | None = None  # to be shown as soon as it is read
        self._at: int | None = None  # the item gone to last
        self._is_after_unseen = False
        self._is_settled = False
        self._aside: int | None = None  # shown again by `bring_back`
        self._again: tuple[str, str] | None = None  # said anew when that one is shown again
        self._is_stepped = False  # whether something was drawn on the item shown
        self._ready: Ready | None = None  # the item shown, as it was read
        self._pending: Callable[[], None] | None = None  # what waits for `leave_unsaved`
        self.ahead.read.connect(self._was_read)
        self.ahead.failed.connect(self._ahead_failed)
        self.ahead.drafted.connect(self._was_drafted)
        host.busy.connect(self._mind_busy)
        host.editors.stepped.connect(self._mind_step)

    # The list

    @property
    def items(self) -> Any:  # Any: a sequence of Item, or an empty one
        """What the dataset lists."""
        return () if self.dataset is None else self.dataset.items

    @property
    def item(self) -> Item | None:
        """The item that is shown."""
        return None if self.place is None else self.items[self.place]

    def facts_of(self, item: Item) -> Facts:
        """Return what is known of an item's masks."""
        return self.facts.get(item.name) or listed_facts(item)

    def uncounted(self) -> list[Item]:
        """Return the items whose classes or count are not known, as corrected."""
        found = []
        for place, item in enumerate(self.items):
            facts = self.facts_of(item)
            is_known = facts.count is not None and facts.classes is not None
            # What the listing tells of an item that has a case is what it was before.
            is_old = item.name not in self.facts and self.standing(place).status != "unseen"
            if not is_known or (is_old and self._case_of(item) is not None):
                found.append(item)
        return found

    def standing(self, place: int) -> Standing:
        """Return how far an item is."""
        return self.worklist.of(self.items[place])

    def open(self, path: Path) -> None:
        """List a dataset beside the window, once the image shown is saved."""
        workspace = str(setting("workspace", ""))
        author = str(setting("author", ""))

        def work(job: Job) -> Any:  # Any: a dataset and its list
            from maskloop.desk.items import open_list

            found = open_list(path, job=job)
            kept = Worklist.beside(found.root, workspace=workspace or None, author=author)
            return found, kept, tuple(job.notes)

        def begin() -> None:
            self._host.start(work, "Listing the dataset", lambda found: self._opened(*found))

        self.leave(begin)

    def _opened(self, dataset: Dataset, kept: Worklist, notes: tuple[str, ...]) -> None:
        drafter = self.ahead.drafter
        self.ahead.close()
        self.ahead.use(drafter)  # the box is still ticked
        self.dataset, self.worklist = dataset, kept
        self.place, self._at, self._aside, self.facts = None, None, None, {}
        self._settle_memory()
        self.refilter(Filter())
        told = [f"{dataset.name}: {len(dataset.items):,} images", *notes]
        if kept.problem:
            told.append(f"what you mark is kept in memory only: {kept.problem}")
        said = ". ".join(note.rstrip(".") for note in dict.fromkeys(told))
        self._host.say(f"{said}.", "warning" if len(told) > 1 else "good")
        self.moved.emit()

    def refilter(self, wanted: Filter | None = None) -> None:
        """List the items that pass the filter."""
        if wanted is not None:
            self.filter = wanted
        order = chosen(self.items, self.worklist, self.facts, self.filter)
        if order == self.order and wanted is None:
            self.marked.emit()  # the rows stay, and so does what is selected
            return
        self.order = order
        self.listed.emit()
        self._read_ahead()

    def refresh(self) -> None:
        """Read what others have marked since."""
        if self.worklist.refresh():
            self.refilter()

    def learn(self, found: dict[str, Facts]) -> None:
        """Take what was counted."""
        self.facts.update(found)
        self.refilter()

    # Marks

    def mark(
        self,
        places: Iterable[int],
        *,
        status: Progress | None = None,
        assignee: str | None = None,
        reviewer: str | None = None,
    ) -> bool:
        """Mark items, in the list and in their cases; return whether that is on disk."""
        items = [self.items[place] for place in places]
        if status is not None and status != "done" and reviewer is None:
            reviewer = ""  # what is not done any more was not reviewed as it is
        try:
            self.worklist.mark(items, status=status, assignee=assignee, reviewer=reviewer)
            for item in items:
                self._tell_case(item)
        except MaskloopError as error:
            self._host.say(str(error), "error")
            return False
        finally:
            self.marked.emit()
        return True

    def _tell_case(self, item: Item) -> None:
        folder = self._case_of(item)
        if folder is not None:
            put_standing(folder, self.worklist.of(item))

    def _case_of(self, item: Item) -> Path | None:
        """Return the folder of an item's case; None where there is none yet."""
        from maskloop.desk.cases import case_folder, is_case

        if item.image is None or not item.image.exists():
            return None
        source = item.image.resolve()
        folder = case_folder(source, workspace=self._host.keeping.workspace_of(source))
        return folder if is_case(folder) else None

    # From one image to the next

    def step(self, by: int) -> None:
        """Open the next item of the list as it is shown, or the one before."""
        self._is_after_unseen = False
        self._go_or_say(next_of(self.order, self._now, by), "There is no other image.")

    def step_unseen(self) -> None:
        """Open the next item that nobody has seen."""
        self.worklist.refresh()
        self._is_after_unseen = True
        self._go_or_say(self._next_unseen(), "Every image of this list has been seen.")

    def _next_unseen(self) -> int | None:
        unseen = {p for p in self.order if self.standing(p).status == "unseen"}
        return next_of(self.order, self._now, among=unseen)

    @property
    def _now(self) -> int | None:
        """Which item is shown, or on its way, or could not be opened."""
        return self._at if self.place is None else self.place

    def finish(self) -> None:
        """Call the item shown done, and open the next one that nobody has seen."""
        if self.place is not None and self.mark([self.place], status="done"):
            self.step_unseen()

    def toggle_flag(self) -> None:
        """Flag the item shown, or take the flag back."""
        if self.place is not None:
            is_flagged = self.standing(self.place).status == "flagged"
            self.mark([self.place], status="in work" if is_flagged else "flagged")

    def go(self, place: int) -> None:
        """Save the item shown, then show another one."""
        if self._host.is_busy:
            self._host.say("Something is running; stop it or wait.", "warning")
            return
        if place == self.place:
            return
        self._again = None
        self.leave(lambda: self._load(place))

    def leave(self, then: Callable[[], None]) -> None:
        """Bring what was done on the item shown to disk, take it from the window, go on."""
        source = self._source
        if source is None:
            self._gone(then)
            return

        def done(problem: str) -> None:
            if not problem:
                self._gone(then)
                return
            self._pending = then
            self._host.say(
                f"What you did here is not on disk: {problem}. Choose a workspace under Correct, "
                "export the labels, or press Leave unsaved.",
                "error",
            )
            self.stuck.emit()

        self._host.keeping.leave(source, done)

    def set_aside(self, then: Callable[[], None]) -> None:
        """Save the item shown and take it from the window, until `bring_back`; then go on."""
        place = self.place

        def gone() -> None:
            self._aside = place if place is not None else self._aside
            self.moved.emit()
            then()

        self.leave(gone)

    def bring_back(self) -> None:
        """Show the item again that was set aside, unless another one is shown by now.

        What was said last stays to be read: how the task ended for which it was set aside.
        """
        place, self._aside = self._aside, None
        if place is not None and self.place is None and place < len(self.items):
            said = self._host.said
            self.go(place)
            if self.item is not None:  # it was read ahead
                self._host.say(*said)
            else:
                self._again = said

    def leave_unsaved(self) -> None:
        """Give up what could not be brought to disk, and go where the person wanted to."""
        then, self._pending = self._pending, None
        if then is not None and self._source is not None:
            self._host.keeping.drop(self._source)
            self._gone(then)

    def _gone(self, then: Callable[[], None]) -> None:
        item = self.item
        self._clear()
        self.place, self._pending = None, None
        if item is not None:
            if self._is_stepped:
                self.facts[item.name] = Facts()  # until somebody counts what is drawn by now
            self._after(item)
        self._is_stepped = False
        then()

    def _after(self, item: Item) -> None:
        """Tell a case that was made meanwhile how far it is."""
        try:
            self._tell_case(item)
        except MaskloopError as error:
            self._host.say(str(error), "warning")

    def _clear(self) -> None:
        """Take the layers of the item from the window."""
        take_away(self._host.viewer, [known() for known in self._shown])
        self._shown, self._source, self._ready = [], None, None

    def _load(self, place: int) -> None:
        item = self.items[place]
        self._at, self._wanted = place, None
        self.moved.emit()
        ready = self.ahead.ready_of(item.name)
        if ready is not None and not ready.opened.has_case:
            if self._case_of(item) is None:
                self._show(place, ready, None)
                return
            ready = None  # somebody else began one since it was read
        if ready is None and self.ahead.is_reading(item.name):
            self._wanted = place
            self._host.say(f"Opening {item.name} ...")
            return
        self.ahead.forget_read()
        dataset, keeping = self.dataset, self._host.keeping
        workspace = self._workspace_of(item)
        found = None if item.image is None else keeping.answered(item.image.resolve())
        keeping.wait()  # for the case of this very item, if it was left a moment ago
        if dataset is None:
            return

        def work(job: Job) -> tuple[Ready, Any]:  # Any: a case and layer data
            read = prepare(dataset, item, workspace, job) if ready is None else ready
            image, where = read.opened.image, read.place
            if not read.opened.has_case or found is None or image is None or where is None:
                return read, None
            given = image if where.lead < 2 else found.source
            return read, keeping.open_on(found, given, where, read.name, job=job)

        title = f"Opening {item.name}"
        self._host.start(work, title, lambda both: self._show(place, *both))

    def _was_read(self, ready: Ready) -> None:
        place, self._wanted = self._wanted, None
        if place is not None and self.items[place].name == ready.item.name:
            self._load(place)

    def _ahead_failed(self, name: str, words: str) -> None:
        if self._wanted is not None and self.items[self._wanted].name == name:
            self._wanted = None
            self._host.say(words, "error")

    def _show(self, place: int, ready: Ready, opened: tuple[Case, Any] | None) -> None:
        """Put an item into the window: its own masks, or those of its case."""
        from napari.layers import Layer

        viewer, host = self._host.viewer, self._host
        path = None if ready.place is None else ready.place.source
        source = path.resolve() if path is not None and path.exists() else None
        self._source, self._nbytes = source, ready.nbytes
        if source is not None:
            host.keeping.answered(source)  # nobody is asked whether to go on
        images = [viewer.add_layer(Layer.create(*data)) for data in ready.image]
        if opened is None or source is None:
            shown = [viewer.add_layer(Layer.create(*data)) for data in ready.masks]
        else:
            shown = host.keeping.go_on(host.keeping.answered(source), *opened)
        self._shown = [weakref.ref(layers.bare(x)) for x in (*images, *shown)]
        if images:
            host.image.choose(images[0])
        host.labels.choose(shown[0])
        viewer.layers.selection.active = shown[0]
        if not images:  # its steps would have no place on disk
            for layer in shown:
                layer.editable = False
        elif len(shown) > 1 and opened is None:
            self._bind(shown)
        viewer.reset_view()
        self.place, self._ready = place, ready
        self._seen(place, ready, opened)
        self.moved.emit()
        drafted = self.ahead.draft_of(ready.item.name)
        if drafted is not None:
            self._was_drafted(drafted)
        else:
            self.ahead.draft(ready, is_first=True)
        self._read_ahead()

    def _bind(self, shown: list[Any]) -> None:  # Any: napari layers
        """Make all masks of an item part of its case: also those that nobody will touch."""
        editors = self._host.editors
        for layer in shown:
            editor = editors.of(layer)
            if editor is not None:
                editors.open(editor)

    def _seen(self, place: int, ready: Ready, opened: tuple[Case, Any] | None) -> None:
        item, standing = ready.item, self.standing(place)
        again, self._again = self._again, None
        if opened is None:
            self.facts[item.name] = ready.opened.facts
        if standing.status == "unseen":
            author = str(setting("author", ""))
            mine = author if author and not standing.assignee else None
            self.mark([place], status="in work", assignee=mine)
        else:
            self.marked.emit()
        if opened is not None and opened[0].notices:
            self._host.say("; ".join(opened[0].notices) + ".", "warning")
            return
        if again is not None:
            self._host.say(*again)
            return
        at = self.order.index(place) + 1 if place in self.order else place + 1
        if not ready.image:
            words = f"{item.name}: the dataset has no picture of it; its masks can be looked at"
            self._host.say(f"{words}, not corrected.", "warning")
            return
        self._host.say(f"{item.name}: {at:,} of {len(self.order):,} listed.")

    # Ahead

    def _workspace_of(self, item: Item) -> Path | None:
        if item.image is None or not item.image.exists():
            return None
        return self._host.keeping.workspace_of(item.image.resolve())

    def _read_ahead(self) -> None:
        """Begin to read the item that is likely to be opened next."""
        if self.dataset is None or self.place is None:
            return
        place = self._next_unseen() if self._is_after_unseen else None
        place = next_of(self.order, self.place) if place is None else place
        wanted = {self.items[p].name for p in (self.place, place) if p is not None}
        self.ahead.keep_only(wanted)
        if place is not None:
            item = self.items[place]
            where = self._workspace_of(item)
            self.ahead.begin(self.dataset, item, where, like=self._nbytes)

    def draft_now(self) -> None:
        """Let the model draft the item shown too, if nothing is drawn on it."""
        if self._ready is not None and self.place is not None:
            self.ahead.draft(self._ready, is_first=True)

    def _was_drafted(self, drafted: Drafted) -> None:
        """Draw a draft, if its item is shown and nothing was drawn on it meanwhile."""
        item = self.item
        if item is None or item.name != drafted.item.name:
            return
        self.ahead.draft_of(item.name)
        layer = next((x for x in (known() for known in self._shown) if is_labels(x)), None)
        editor = self._host.editors.of(layer) if layer is not None else None
        if editor is None or (editor.is_open and editor.keeper.has_steps):
            self._host.say(f"The draft of {item.name} is left out: you began without it.")
            return
        draw_draft(self._host, editor, drafted)

    def _mind_step(self, *_: object) -> None:
        self._is_stepped = True

    def _mind_busy(self, is_busy: bool) -> None:
        if is_busy:
            self.ahead.pause()
        else:
            self.ahead.go_on()

    def _go_or_say(self, place: int | None, words: str) -> None:
        if self.dataset is None:
            self._host.say("Open a dataset first.")
        elif place is None:
            self._host.say(words)
        else:
            self.go(place)

    def _settle_memory(self) -> None:
        """Take what is there by now, a long list above all, out of the search for garbage.

        napari searches everything whenever a layer goes, and two go for each image: a second in
        all for a list of 10,000.
        """
        if self._is_settled:
            gc.unfreeze()
        gc.collect()
        gc.freeze()
        self._is_settled = True

    def release(self) -> None:
        """Stop what runs."""
        self.ahead.close()
        if self._is_settled:
            gc.unfreeze()
