"""From memory to disk: makes case folders, and asks before an earlier case is gone on with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from qtpy.QtCore import QObject, QTimer, Signal

from maskloop.core.case import Case
from maskloop.core.errors import MaskloopError
from maskloop.core.image import Image
from maskloop.core.job import Job
from maskloop.gui import layers
from maskloop.gui.editing import Editors
from maskloop.gui.keeper import Keeper
from maskloop.gui.ondisk import (
    Found,
    Place,
    Snapshot,
    catch_up,
    free_name,
    moved_to,
    place_for,
    put_aside,
    repeated_on,
    snapshot_of,
)
from maskloop.gui.placement import Placement
from maskloop.gui.turns import Slow, Turns

_LATER_MS = 200
_SOON_MS = 20


class Keeping(QObject):
    """Keeps the cases of the window on disk.

    Parameters
    ----------
    editors : Editors
    setting : callable
        Returns what the person chose in the preferences, by name, or a default.
    is_busy : callable
        Whether a tool or model works on a case: it is not moved then.

    Signals
    -------
    changed()
        What `words_for` or `asked` would return is another.
    """

    changed = Signal()

    def __init__(
        self,
        editors: Editors,
        setting: Callable[[str, Any], Any],  # Any: text or bool
        is_busy: Callable[[], bool],
    ) -> None:
        super().__init__()
        self._editors = editors
        self._setting = setting
        self._is_busy = is_busy
        self._found: dict[Path, Found | None] = {}
        self._turns = Turns(lambda error: editors.say(str(error), "error"))
        self._ready: list[Callable[[], None]] = []
        self._is_closed = False
        editors.changed.connect(self._follow)

    # Earlier cases

    def look(self, source: Path | None) -> None:
        """Find out, beside the window, whether an image has an earlier case."""
        if source is None or source in self._found or self._is_closed:
            return
        if not self._setting("journal", True):
            return
        keeper = self._editors.keeper_of(source)
        folder, place = self._folder(source)
        if (keeper is not None and keeper.is_on_disk) or not folder.is_dir():
            return
        self._found[source] = None  # being looked at: nothing is written meanwhile

        def work() -> dict[str, Any] | None:  # Any: plain JSON values
            from maskloop.desk.cases import case_state

            return case_state(source, workspace=place.workspace)

        def done(state: dict[str, Any] | None) -> None:
            if state is None:
                del self._found[source]
            else:
                self._found[source] = Found(source, place.workspace, state)
            self.changed.emit()

        self._turns.add(lambda: Slow(work, done))

    def asked(self, source: Path | None) -> Found | None:
        """Return the earlier case of an image that the person has said nothing to yet."""
        found = self._found.get(source) if source is not None else None
        return found if found is not None and not found.answer else None

    def open(self, found: Found, image: layers.Layer, *, job: Job) -> tuple[Case, list[Any]]:
        """Open an earlier case and make layer data of its masks; in any thread."""
        # The image itself, not its path alone: a folder may hold several series.
        place = layers.placement_of(image)
        given = found.source if place.lead > 1 else layers.image_of(image)
        return self.open_on(found, given, place, str(image.name), job=job)

    def open_on(
        self, found: Found, image: Image | Path, place: Placement, name: str, *, job: Job
    ) -> tuple[Case, list[Any]]:  # Any: layer data
        """As `open`, on pixels that no layer shows yet."""
        from maskloop.desk.cases import open_case

        case = open_case(
            image,
            workspace=found.workspace,
            author=str(self._setting("author", "")),
            in_background=True,
            job=job,
        )
        made = []
        for key, mask in case.masks.items():
            shown = replace(mask, source=place.source, header=place.header, title=place.title)
            made.append((key, layers.mask_layer(shown, name=f"{name}_{key or _first_name(case)}")))
        return case, made

    def go_on(self, found: Found, case: Case, made: list[Any]) -> list[Any]:  # Any: layers
        """Take an opened case as the image's, add its layers; what was drawn here joins it."""
        from napari.layers import Layer

        editors, old = self._editors, self._editors.keeper_of(found.source)
        found.answer = "continue"
        keeper = Keeper(found.source, editors.failed)
        keeper.case = case
        editors.keep(found.source, keeper)
        shown = []
        for name, data in made:
            layer = Layer.create(*data)
            editors.show_mask(keeper, name, layer)  # before anybody else asks for its editor
            editors.viewer.add_layer(layer)
            if case.is_read_only:
                layer.editable = False
            shown.append(layer)
        if old is not None:
            self._join(old, keeper)
        keeper.note = "; ".join(case.notices) if case.is_read_only else ""
        self.changed.emit()
        return shown

    def start_afresh(self, found: Found) -> Path:
        """Put an earlier case aside, never deleting it; the next step begins a new one."""
        folder, _ = self._folder(found.source)
        aside = put_aside(folder)
        found.answer = "afresh"
        keeper = self._editors.keeper_of(found.source)
        if keeper is not None:
            self.settle(keeper)
        self.changed.emit()
        return aside

    def _join(self, old: Keeper, new: Keeper) -> None:
        """Bring the layers of a case in memory, and their steps, into one on disk."""
        if new.case.is_read_only:
            for editor in old.editors.values():
                if editor.layer is not None:
                    editor.layer.editable = False
            old.close()
            return
        old.turns.wait()
        names: dict[str, str] = {}
        for name, editor in old.editors.items():
            taken = {*new.case.masks, *names.values()}
            names[name] = free_name(name or self._editors.suffix_of(editor), taken)
        repeated_on(new.case, snapshot_of(old.case), names)
        for name, editor in list(old.editors.items()):
            editor.bind(new, names[name])
        old.editors.clear()
        old.close()
        new.deliver()

    # From one image of a list to the next

    def answered(self, source: Path) -> Found:
        """Go on with whatever case an image has, without asking; return what is known of it."""
        _, place = self._folder(source)
        found = self._found[source] = Found(source, place.workspace, {}, "continue")
        return found

    def workspace_of(self, source: Path) -> Path | None:
        """Return the workspace that an image's case lies in; None where it lies beside it."""
        return self._folder(source)[1].workspace

    def unsaved(self, source: Path) -> str:
        """Return why steps on an image cannot be brought to disk; empty where they can."""
        keeper = self._editors.keeper_of(source)
        if keeper is None or keeper.is_on_disk or not keeper.is_open or not keeper.has_steps:
            return ""
        if not self._setting("journal", True):
            return "the journal is off in the preferences"
        return self._folder(source)[1].problem or keeper.note

    def leave(self, source: Path, done: Callable[[str], None]) -> None:
        """Bring the steps on an image to disk and let go of its case; `done` follows.

        Parameters
        ----------
        source : Path
        done : callable
            Takes why the steps are not on disk, empty where they are; the case is then kept.
        """
        self._editors.flush()
        keeper = self._editors.keeper_of(source)
        if keeper is None:
            self._found.pop(source, None)
            done("")
            return
        if keeper.is_settling:
            QTimer.singleShot(_SOON_MS, lambda: self.leave(source, done))
            return
        if keeper.has_steps and not keeper.is_on_disk:
            problem = self.unsaved(source)
            if not problem:
                self.settle(keeper)
                problem = "" if keeper.is_settling else "another window began a case of it"
            if problem:
                done(problem)
            else:
                QTimer.singleShot(_SOON_MS, lambda: self.leave(source, done))
            return
        self.drop(source)
        done("")

    def drop(self, source: Path) -> None:
        """Let go of the case of an image, whatever of it is on disk."""
        keeper = self._editors.keeper_of(source)
        self._found.pop(source, None)
        if keeper is None:
            return
        self._editors.let_go(keeper)
        keeper.turns.close()
        self._turns.add(lambda: Slow(keeper.let_go, lambda _: None))

    def wait(self) -> None:
        """Return when every case that was left is closed."""
        self._turns.wait()

    # To disk

    def settle(self, keeper: Keeper) -> None:
        """Make a folder of a case in memory, beside the window, if it may have one."""
        source = keeper.source
        if source is None or keeper.is_on_disk or keeper.is_settling or not keeper.is_open:
            return
        if self._is_closed or not len(keeper.case.history) or not self._setting("journal", True):
            return
        folder, place = self._folder(source)
        if place.problem or keeper.note:
            self._note(keeper, place.problem or keeper.note)
            return
        if folder.is_dir():
            self.look(source)
            if source in self._found:
                return
        keeper.is_settling = True
        keeper.turns.add(
            lambda: Slow(
                lambda: snapshot_of(keeper.case), lambda found: self._write(keeper, found, place)
            )
        )

    def try_again(self) -> None:
        """Settle the cases that had no place, now that the person has chosen one."""
        for keeper in self._editors.keepers:
            if not keeper.is_on_disk:
                keeper.note = ""
                self.settle(keeper)
        self.changed.emit()

    def words_for(self, source: Path | None) -> tuple[str, bool]:
        """Return where the steps on an image are kept, and whether the person should act."""
        keeper = self._editors.keeper_of(source)
        if source is None:
            return "Steps are kept in memory: the image has no file.", False
        if not self._setting("journal", True):
            return "Steps are kept in memory: the journal is off in the preferences.", False
        if keeper is not None and keeper.is_on_disk and keeper.case.is_read_only:
            return f"{keeper.note}. Nothing can be changed here.", True
        if keeper is not None and keeper.is_on_disk and keeper.case.folder is not None:
            return f"Each step is on disk: {keeper.case.folder.name}.", False
        _, place = self._folder(source)
        if place.problem:
            return f"Steps are kept in memory only: {place.problem}.", True
        if keeper is not None and keeper.note:
            return f"Steps are kept in memory only: {keeper.note}", True
        if self.asked(source) is not None:
            return "Steps are kept in memory until you choose.", False
        return "Each step will be on disk within a second.", False

    def close(self) -> None:
        """Bring to disk what is on its way there, then let go of every case."""
        if self._is_closed:
            return
        self._editors.flush()
        self._turns.wait()
        while any(keeper.is_settling for keeper in self._editors.keepers):
            for keeper in self._editors.keepers:
                keeper.turns.wait()
            self._turns.wait()
            ready, self._ready = self._ready, []
            for move in ready:
                move()
        self._is_closed = True
        self._turns.close()
        self._editors.close()

    def _follow(self, keeper: Keeper) -> None:
        self.settle(keeper)
        self.changed.emit()

    def _folder(self, source: Path) -> tuple[Path, Place]:
        from maskloop.desk.cases import case_folder

        place = place_for(source, str(self._setting("workspace", "")))
        return case_folder(source, workspace=place.workspace), place

    def _write(self, keeper: Keeper, found: Snapshot, place: Place) -> None:
        memory, image = keeper.case, keeper.image
        author = str(self._setting("author", ""))
        given: Any = keeper.source  # Any: a path, or the image that was loaded from it
        if image is not None and layers.placement_of(image).lead < 2:
            given = layers.image_of(image)

        def work() -> Case | MaskloopError:
            from maskloop.desk.cases import open_case

            try:
                case = open_case(
                    given,
                    mask=found.starts[""],
                    workspace=place.workspace,
                    author=author,
                    in_background=True,
                )
                if not case.is_read_only:
                    moved_to(case, found, memory)
            except (MaskloopError, OSError) as error:
                return MaskloopError(str(error))
            return case

        def done(case: Case | MaskloopError) -> None:
            if isinstance(case, Case) and case.is_read_only:
                case.close()
                case = MaskloopError("; ".join(case.notices))
            if isinstance(case, MaskloopError):
                keeper.is_settling = False
                self._note(keeper, str(case))
                return
            self._ready.append(lambda: self._move(keeper, found, memory, case))
            self._move_ready()

        self._turns.add(lambda: Slow(work, done))

    def _move_ready(self) -> None:
        if self._is_busy():
            QTimer.singleShot(_LATER_MS, self._move_ready)
            return
        ready, self._ready = self._ready, []
        for move in ready:
            move()

    def _move(self, keeper: Keeper, found: Snapshot, memory: Case, case: Case) -> None:
        def swap() -> None:
            keeper.is_settling = False
            try:
                catch_up(case, found, memory)
            except MaskloopError as error:
                case.close()
                self._note(keeper, str(error))
                return
            case.active = memory.active
            case.review = memory.review
            case.review.folder, case.review.is_read_only = case.folder, False
            keeper.case = case

        keeper.turns.add(swap)

    def _note(self, keeper: Keeper, words: str) -> None:
        if keeper.note != words:
            keeper.note = words
            self._editors.say(f"Steps are kept in memory only: {words}", "warning")
        self.changed.emit()


def _first_name(case: Case) -> str:
    told = (edit.about.get("layer") for edit in case.history if not edit.mask)
    return next((str(name) for name in told if name), "labels")
