"""Three linked planes with a crosshair: the canvas shows one, two small views the others.

The small views are drawn from slices, without a second viewer: nothing is copied, and painting,
undo and the journal stay with the one layer that napari knows.
"""

from __future__ import annotations

from functools import partial
from itertools import count
from typing import Any

from qtpy.QtCore import QPointF, QRectF, Qt
from qtpy.QtGui import (
    QColor,
    QImage,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPen,
    QTransform,
    QWheelEvent,
)
from qtpy.QtWidgets import QFrame, QHBoxLayout, QSizePolicy, QWidget

from maskloop.gui import layers
from maskloop.gui.bearing import MARK, Convention, Edges, Facing, edges, facing_of, guide_of
from maskloop.gui.choices import is_alive
from maskloop.gui.planes import Picture, Plane, picture_of, planes_of
from maskloop.gui.tips import TIPS

LETTER, LINE = QColor(MARK), QColor(MARK)
LINE.setAlpha(150)
_MARGIN = 32  # pixels for the letters
_CLEAR = 44  # the same on the canvas
_LOOKS = (
    *("set_data", "labels_update", "data", "visible", "opacity", "blending", "scale", "translate"),
    *("contrast_limits", "colormap", "gamma"),
)


class PlaneView(QWidget):
    """One plane: click or drag to move the crosshair, wheel to step, double click to enlarge.

    Parameters
    ----------
    views : ThreeViews
        Owner.
    plane : Plane
    """

    def __init__(self, views: ThreeViews, plane: Plane) -> None:
        super().__init__()
        self.plane = plane
        self.drawn = 0
        self._views = views
        self._turned = 0
        self._pictures: dict[int, tuple[tuple[float, ...], Picture | None]] = {}
        self.setToolTip(TIPS["plane"])
        self.setMinimumSize(120, 120)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setCursor(Qt.CursorShape.CrossCursor)

    @property
    def facing(self) -> Facing:
        """Which way the picture is turned."""
        guide = self._views.guide
        order = self.plane.order(self._views.ndim)
        return facing_of(guide, order, self._views.convention) if guide is not None else Facing()

    @property
    def letters(self) -> Edges | None:
        """What stands at the edges; None where the patient's place is unknown."""
        guide = self._views.guide
        if guide is None:
            return None
        return edges(guide, self.plane.order(self._views.ndim), self.facing)

    def to_screen(self) -> QTransform:
        """Return the map from world ``(column, row)`` to pixels of this widget."""
        left, top, width, height = self._views.extent(self.plane)
        free_x, free_y = self.width() - 2 * _MARGIN, self.height() - 2 * _MARGIN
        zoom = max(min(free_x / width, free_y / height), 1e-6)
        facing = self.facing
        across = zoom if facing.horizontal == "right" else -zoom
        down = zoom if facing.vertical == "down" else -zoom
        middle_x, middle_y = left + width / 2, top + height / 2
        return QTransform(
            across, 0, 0, down,
            self.width() / 2 - across * middle_x, self.height() / 2 - down * middle_y,
        )  # fmt: skip

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw the layers from below, then crosshair and letters."""
        self.drawn += 1
        painter = QPainter(self)
        painter.fillRect(self.rect(), Qt.GlobalColor.black)
        place = self.to_screen()
        painter.setTransform(place)
        for layer in self._views.drawn:
            found = self._picture(layer)
            if found is None:
                continue
            rows, columns = found.colours.shape[:2]
            image = QImage(
                found.colours.data, columns, rows, columns * 4, QImage.Format.Format_RGBA8888
            )
            mode = QPainter.CompositionMode
            added = mode.CompositionMode_Plus if found.is_added else mode.CompositionMode_SourceOver
            painter.setCompositionMode(added)
            painter.setOpacity(found.opacity)
            painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform, found.is_smooth)
            painter.drawImage(QRectF(*found.box), image)
        painter.resetTransform()
        painter.setCompositionMode(QPainter.CompositionMode.CompositionMode_SourceOver)
        painter.setOpacity(1.0)
        self._draw_marks(painter, place)
        painter.end()

    def _picture(self, layer: layers.Layer) -> Picture | None:
        """Return a layer's slice, made again only where layer or slice changed."""
        point = self._views.point
        own = (self.plane.rows, self.plane.columns)
        state = (
            self._views.revision(layer),
            *(v for axis, v in enumerate(point) if axis not in own),
        )
        known = self._pictures.get(id(layer))
        if known is None or known[0] != state:
            known = self._pictures[id(layer)] = state, picture_of(layer, self.plane, point)
        return known[1]

    def _draw_marks(self, painter: QPainter, place: QTransform) -> None:
        point = self._views.point
        cross = place.map(QPointF(point[self.plane.columns], point[self.plane.rows]))
        painter.setPen(QPen(LINE, 1))
        wide, high = self.width() - _MARGIN, self.height() - _MARGIN
        painter.drawLine(QPointF(cross.x(), _MARGIN), QPointF(cross.x(), high))
        painter.drawLine(QPointF(_MARGIN, cross.y()), QPointF(wide, cross.y()))
        painter.setPen(LETTER)
        font = painter.font()
        font.setPointSize(12)
        painter.setFont(font)
        flag = Qt.AlignmentFlag
        whole = self.rect().adjusted(5, 2, -5, -2)
        if (found := self.letters) is not None:
            for text, where in (
                (found.top, flag.AlignTop | flag.AlignHCenter),
                (found.bottom, flag.AlignBottom | flag.AlignHCenter),
                (found.left, flag.AlignVCenter | flag.AlignLeft),
                (found.right, flag.AlignVCenter | flag.AlignRight),
            ):
                painter.drawText(whole, where, text)
        font.setPointSize(9)
        painter.setFont(font)
        painter.setPen(QColor("#b0b0b0"))
        painter.drawText(whole, flag.AlignTop | flag.AlignLeft, self.plane.name)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Move the crosshair here."""
        if event.buttons() & Qt.MouseButton.LeftButton:
            self._go_to(event.position())

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Drag the crosshair."""
        self.mousePressEvent(event)

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:
        """Show this plane in the canvas, to paint in it."""
        self._views.enlarge(self.plane)

    def wheelEvent(self, event: QWheelEvent) -> None:
        """Step through the slices of this plane."""
        self._turned += event.angleDelta().y()
        steps = int(self._turned / 120)
        self._turned -= steps * 120
        if steps:
            self._views.step(self.plane.hidden, steps)
        event.accept()

    def _go_to(self, where: QPointF) -> None:
        back, is_possible = self.to_screen().inverted()
        if is_possible:
            found = back.map(where)
            self._views.go_to({self.plane.rows: found.y(), self.plane.columns: found.x()})


class ThreeViews(QWidget):
    """The two planes that the canvas does not show, and the crosshair on the canvas.

    Parameters
    ----------
    viewer : napari.Viewer
    convention : {"radiological", "neurological"}
    """

    def __init__(
        self,
        viewer: Any,  # Any: napari is untyped
        convention: Convention = "radiological",
    ) -> None:
        super().__init__()
        self._viewer = viewer
        self._convention = convention
        self._heard: list[tuple[Any, Any]] = []  # Any: napari events are untyped
        self._heard_of: dict[int, list[tuple[Any, Any]]] = {}
        self._revisions: dict[int, int] = {}
        self._count = count()
        self._cross: list[QFrame] = []
        self.views: tuple[PlaneView, ...] = ()
        self._row = QHBoxLayout(self)
        self._row.setContentsMargins(0, 0, 0, 0)
        self._row.setSpacing(2)
        self.setMinimumHeight(160)
        dims, listed = viewer.dims.events, viewer.layers.events
        camera, canvas = viewer.scene.camera.events, viewer.canvas.events
        self._hear(dims.order, self._arrange)
        self._hear(dims.ndim, self._arrange)
        self._hear(dims.ndisplay, self._arrange)
        self._hear(dims.point, self._refresh)
        self._hear(listed.reordered, self._refresh)
        self._hear(listed.inserted, self._layers_changed)
        self._hear(listed.removed, self._layers_changed)
        self._hear(viewer.layers.selection.events.active, self._refresh)
        for event in (camera.center, camera.zoom, camera.orientation, canvas.size):
            self._hear(event, self._place_cross)
        viewer.mouse_move_callbacks.append(self._follow)
        self._layers_changed()
        self._arrange()

    @property
    def convention(self) -> Convention:
        """Whether the patient's right is on screen left or on screen right."""
        return self._convention

    @convention.setter
    def convention(self, value: Convention) -> None:
        self._convention = value
        self._refresh()

    @property
    def guide(self) -> layers.Layer | None:
        """The layer that says where the patient lies."""
        return guide_of(self._viewer)

    @property
    def drawn(self) -> list[layers.Layer]:
        """The viewer's layers, lowest first."""
        return [layers.bare(layer) for layer in self._viewer.layers]

    @property
    def ndim(self) -> int:
        """Number of the viewer's axes."""
        return int(self._viewer.dims.ndim)

    @property
    def point(self) -> tuple[float, ...]:
        """Where the crosshair stands, in the viewer's world."""
        return tuple(float(v) for v in self._viewer.dims.point)

    def extent(self, plane: Plane) -> tuple[float, float, float, float]:
        """Return left, top, width and height of a plane in the viewer's world."""
        span = [self._viewer.dims.range[axis] for axis in (plane.columns, plane.rows)]
        (left, right, across), (top, bottom, down) = (tuple(map(float, part)) for part in span)
        return left - across / 2, top - down / 2, right - left + across, bottom - top + down

    def revision(self, layer: layers.Layer) -> int:
        """Return a number that changes with every change of a layer's data or looks."""
        return self._revisions.get(id(layer), -1)

    def go_to(self, where: dict[int, float]) -> None:
        """Move the crosshair along some axes of the viewer."""
        self._viewer.dims.set_point(tuple(where), tuple(where.values()))

    def step(self, axis: int, steps: int) -> None:
        """Step through the slices along an axis of the viewer."""
        dims = self._viewer.dims
        dims.set_current_step(axis, dims.current_step[axis] + steps)

    def enlarge(self, plane: Plane) -> None:
        """Show a plane in the canvas."""
        self._viewer.dims.order = plane.order(self.ndim)
        self._viewer.reset_view()

    def release(self) -> None:
        """Stop following the viewer; take the crosshair away."""
        for event, slot in self._heard:
            event.disconnect(slot)
        self._heard.clear()
        for pairs in self._heard_of.values():
            for event, slot in pairs:
                event.disconnect(slot)
        self._heard_of.clear()
        if self._follow in self._viewer.mouse_move_callbacks:
            self._viewer.mouse_move_callbacks.remove(self._follow)
        for line in filter(is_alive, self._cross):
            line.hide()
            line.deleteLater()
        self._cross.clear()

    def _hear(self, event: Any, slot: Any) -> None:  # Any: napari events are untyped
        event.connect(slot)
        self._heard.append((event, slot))

    def _layers_changed(self, event: Any = None) -> None:  # Any: napari events are untyped
        present = {id(layer): layer for layer in self.drawn}
        for gone in set(self._heard_of) - set(present):
            for signal, slot in self._heard_of.pop(gone):
                signal.disconnect(slot)
        for key, layer in present.items():
            if key in self._heard_of:
                continue
            found = (getattr(layer.events, name, None) for name in _LOOKS)
            slot = partial(self._layer_changed, key)
            self._revisions[key] = next(self._count)
            pairs = [(signal, slot) for signal in found if signal is not None]
            for signal, slot in pairs:
                signal.connect(slot)
            self._heard_of[key] = pairs
        self._arrange()

    def _layer_changed(self, key: int, event: Any = None) -> None:  # Any: napari's event
        self._revisions[key] = next(self._count)
        self._refresh()

    def _arrange(self, event: Any = None) -> None:  # Any: napari events are untyped
        dims = self._viewer.dims
        wanted: list[Plane] = []
        if dims.ndim >= 3:
            shown = set(dims.order[-2:])
            every = planes_of(dims.ndim, has_patient=self.guide is not None)
            wanted = [plane for plane in every if {plane.rows, plane.columns} != shown][-2:]
        if [view.plane for view in self.views] != wanted:
            for view in self.views:
                self._row.removeWidget(view)
                view.hide()
                view.deleteLater()
            self.views = tuple(PlaneView(self, plane) for plane in wanted)
            for view in self.views:
                self._row.addWidget(view, 1)
        self._refresh()

    def _refresh(self, event: Any = None) -> None:  # Any: napari events are untyped
        for view in self.views:
            view.update()
        self._place_cross()

    def _place_cross(self, event: Any = None) -> None:  # Any: napari events are untyped
        """Draw the crosshair on the canvas: two thin lines that let the mouse through."""
        if not self._cross:
            self._cross = _lines_over(self.window())
        dims, camera = self._viewer.dims, self._viewer.scene.camera
        is_flat = dims.ndim >= 3 and dims.ndisplay == 2 and bool(len(self._viewer.layers))
        for line in self._cross:
            line.setVisible(is_flat and self.isVisible())
        if not is_flat or not self._cross:
            return
        height, width = (int(n) for n in self._viewer.canvas.size)
        _, vertical, horizontal = (str(part) for part in camera.orientation)
        rows, columns = dims.order[-2:]
        down = camera.zoom if vertical == "down" else -camera.zoom
        across = camera.zoom if horizontal == "right" else -camera.zoom
        y = height / 2 + (dims.point[rows] - camera.center[-2]) * down
        x = width / 2 + (dims.point[columns] - camera.center[-1]) * across
        upright, level = self._cross
        upright.setGeometry(round(x), _CLEAR, 1, height - 2 * _CLEAR)
        level.setGeometry(_CLEAR, round(y), width - 2 * _CLEAR, 1)

    def _follow(self, viewer: Any, event: Any) -> None:  # Any: napari is untyped
        """Move the crosshair with the mouse while Shift is held, as other viewers do."""
        if "Shift" in event.modifiers and viewer.dims.ndisplay == 2 and viewer.dims.ndim >= 3:
            self.go_to({axis: float(event.position[axis]) for axis in viewer.dims.order[-2:]})

    def showEvent(self, event: Any) -> None:  # Any: Qt's event
        """Show the crosshair with the views."""
        self._place_cross()

    def hideEvent(self, event: Any) -> None:  # Any: Qt's event
        """Hide the crosshair with the views."""
        for line in filter(is_alive, self._cross):
            line.hide()


def _lines_over(window: QWidget) -> list[QFrame]:
    from qtpy.QtOpenGLWidgets import QOpenGLWidget
    from qtpy.QtWidgets import QMainWindow

    middle = window.centralWidget() if isinstance(window, QMainWindow) else None
    canvas = middle.findChild(QOpenGLWidget) if middle is not None else None
    if canvas is None:
        return []
    lines = []
    for name in ("maskloop_upright", "maskloop_level"):
        line = QFrame(canvas)
        line.setObjectName(name)
        line.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        line.setStyleSheet(f"background: rgba{LINE.getRgb()}; border: none;")
        lines.append(line)
    return lines
