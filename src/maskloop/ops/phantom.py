"""Random abdominal CTs and nuclei pictures with exact masks; pure functions of a seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import InputError
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.labels import LabelTable
from maskloop.core.mask import Mask, present_ids

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Field = npt.NDArray[np.float32]
Vector = npt.NDArray[np.float64]

LABELS = {1: "liver", 2: "tumour"}

_BODY_MM = (155.0, 112.0)  # half axes in x and y of an average trunk
_AIR, _LUNG, _FAT, _MUSCLE, _BONE, _CANAL = -1000.0, -820.0, -100.0, 58.0, 420.0, 25.0


def phantom_ct(
    seed: int,
    *,
    shape: tuple[int, int, int] = (96, 128, 128),
    spacing: tuple[float, float, float] = (3.0, 2.8, 2.8),
    lesions: tuple[int, int] = (0, 12),
    diameters_mm: tuple[float, float] = (3.0, 60.0),
    faint: float = 0.25,
    noise_hu: tuple[float, float] = (10.0, 20.0),
) -> tuple[Image, Mask]:
    """Return a portal-venous abdominal CT of a random body, and its liver and tumours.

    The anatomy is drawn in mm round the liver's centre. Where the field of view is narrower than
    the trunk, the anatomy (not the lesions) is scaled down to fit.

    Parameters
    ----------
    seed : int
        The same seed and options give the same voxels.
    shape : tuple of int
        ``(z, y, x)``.
    spacing : tuple of float
        Step in mm along ``(z, y, x)``.
    lesions : tuple of int
        Fewest and most lesions. Fewer are placed where the liver has no room for more.
    diameters_mm : tuple of float
        Smallest and largest lesion diameter; drawn evenly in the logarithm, then limited to what
        the liver holds at that place.
    faint : float
        Share of the lesions that lie only 12 to 25 HU below the liver, 0 to 1.
    noise_hu : tuple of float
        Least and greatest standard deviation of the correlated noise.

    Returns
    -------
    Image
        int16, Hounsfield units, on a regular grid with an origin like a scanner's.
    Mask
        uint8 of {1: liver, 2: tumour} on the same grid; the liver as an organ is both together.

    Raises
    ------
    InputError
        If an option is out of range.
    """
    _require_ranges(lesions, diameters_mm, faint, noise_hu)
    rng = np.random.default_rng(seed)
    scene = _Scene.empty(shape, spacing, rng)
    liver = _in_one_piece(_draw_trunk(scene, rng))
    liver_hu = float(rng.normal(100, 15))
    scene.blend(liver, liver_hu)
    inside = liver > 0.5
    _draw_vessels(scene, inside, liver, liver_hu, rng)
    count = int(rng.integers(lesions[0], lesions[1] + 1))
    tumour = _draw_lesions(scene, inside, count, diameters_mm, liver_hu, faint, rng)
    _draw_couch(scene)
    sd = float(rng.uniform(*noise_hu))
    hu = scene.hu + _correlated_noise(scene.hu.shape, sd, rng)
    origin = tuple(float(v) for v in scene.origin_xyz())
    image = Image(
        np.clip(np.rint(hu), -1024, 3071).astype(np.int16),
        Geometry.regular(shape, spacing, origin),
    )
    ids = inside.astype(np.uint8)
    ids[tumour] = 2
    return image, Mask.like(image, ids, LABELS)


def _require_ranges(
    lesions: tuple[int, int],
    diameters_mm: tuple[float, float],
    faint: float,
    noise_hu: tuple[float, float],
) -> None:
    wrong = ""
    if not 0 <= lesions[0] <= lesions[1]:
        wrong = f"0 <= fewest <= most lesions, got {lesions!r}"
    elif not 0 < diameters_mm[0] <= diameters_mm[1]:
        wrong = f"0 < smallest <= largest diameter in mm, got {diameters_mm!r}"
    elif not 0 <= faint <= 1:
        wrong = f"a share of faint lesions from 0 to 1, got {faint!r}"
    elif not 0 <= noise_hu[0] <= noise_hu[1]:
        wrong = f"0 <= least <= greatest noise in HU, got {noise_hu!r}"
    if wrong:
        msg = f"expected {wrong}; give the smaller number first"
        raise InputError(msg)


@dataclass(slots=True)
class _Scene:
    """The volume being drawn: HU, mm coordinates of its planes, rows and columns, and a scale."""

    hu: Field
    z: Field  # mm from the liver's centre, up
    y: Field  # mm from the trunk's axis, forwards
    x: Field  # mm from the trunk's axis, to the right
    scale: float  # of the anatomy
    step: float  # mm over which an edge is blurred by the voxel

    @classmethod
    def empty(
        cls,
        shape: tuple[int, int, int],
        spacing: tuple[float, float, float],
        rng: np.random.Generator,
    ) -> _Scene:
        shift = rng.uniform(-6, 6, size=3)
        z, y, x = (
            ((np.arange(n) - (n - 1) / 2) * s + d).astype(np.float32)
            for n, s, d in zip(shape, spacing, shift, strict=True)
        )
        half_y, half_x = (n * s / 2 for n, s in zip(shape[1:], spacing[1:], strict=True))
        build = float(rng.uniform(0.9, 1.12))
        fit = min(half_x / (_BODY_MM[0] + 8), half_y / (_BODY_MM[1] + 12))
        scale = min(build, fit)
        room = np.full(shape, _AIR, dtype=np.float32)
        return cls(room, z, y, x, scale, float(np.mean(spacing)))

    def origin_xyz(self) -> Vector:
        """World point of voxel (0, 0, 0): the drawn body hangs in a scanner's room."""
        return np.round([self.x[0] + 4.2, self.y[0] - 151.7, self.z[0] - 1087.4], 2)

    def distance(
        self, centre: Sequence[float], half: Sequence[float], box: tuple[slice, ...] | None = None
    ) -> Field:
        """Mm inside an ellipsoid, negative outside; `centre` and `half` are (x, y, z), unscaled."""
        sz, sy, sx = box or (slice(None),) * 3
        parts = [
            ((axis / self.scale - np.float32(c)) / np.float32(h)) ** 2
            for axis, c, h in zip((self.x[sx], self.y[sy], self.z[sz]), centre, half, strict=True)
        ]
        radius = np.sqrt(
            parts[2][:, None, None] + parts[1][None, :, None] + parts[0][None, None, :]
        )
        distance: Field = (np.float32(1) - radius) * np.float32(min(half) * self.scale)
        return distance

    def box(self, centre: Sequence[float], reach: Sequence[float]) -> tuple[slice, ...]:
        """Slices (z, y, x) that hold everything within `reach` of `centre`, both in scaled mm."""
        found = []
        for axis, c, r in zip((self.x, self.y, self.z), centre, reach, strict=True):
            low, high = np.searchsorted(axis, (c - r - self.step, c + r + self.step))
            found.append(slice(int(low), int(high)))
        return tuple(reversed(found))

    def cover(self, distance: Field) -> Field:
        """Share of each voxel inside a surface, from its signed distance in mm."""
        share: Field = np.clip(distance / np.float32(self.step) + np.float32(0.5), 0, 1)
        return share

    def blend(self, cover: Field, hu: float, box: tuple[slice, ...] | None = None) -> None:
        """Mix a tissue into the volume by its share of each voxel."""
        part = self.hu[box] if box is not None else self.hu
        part += cover * (np.float32(hu) - part)

    def organ(
        self, centre: Sequence[float], half: Sequence[float], hu: float, *, within: Field
    ) -> None:
        """Draw an ellipsoid that stays inside `within`."""
        box = self.box([c * self.scale for c in centre], [h * self.scale for h in half])
        cover = np.minimum(self.cover(self.distance(centre, half, box)), within[box])
        self.blend(cover, hu, box)


def _waves(scene: _Scene, rng: np.random.Generator, wavelength_mm: float) -> Field:
    """Return a smooth random field of about unit amplitude, for deforming surfaces."""
    total = np.zeros_like(scene.hu)
    for _ in range(3):
        k = rng.normal(size=3)
        k *= 2 * np.pi / (wavelength_mm * scene.scale * rng.uniform(0.7, 1.5)) / np.linalg.norm(k)
        phase = rng.uniform(0, 2 * np.pi)
        # cos(a + b + c) through products of 1-D waves: no volume of angles, no volume of cosines.
        ez, ey, ex = (
            np.exp(1j * k[i] * axis).astype(np.complex64)
            for i, axis in enumerate((scene.z, scene.y, scene.x))
        )
        plane = ey[:, None] * ex[None, :] * np.complex64(np.exp(1j * phase))
        total += np.multiply.outer(ez.real, plane.real) - np.multiply.outer(ez.imag, plane.imag)
    return total / np.float32(1.7)


def _union(a: Field, b: Field, *, round_mm: float) -> Field:
    """Return the signed distance of two bodies grown together with a fillet (polynomial union)."""
    h = np.clip(np.float32(0.5) + (a - b) / np.float32(2 * round_mm), 0, 1)
    joined: Field = b + (a - b) * h + np.float32(round_mm) * h * (1 - h)
    return joined


def _draw_trunk(scene: _Scene, rng: np.random.Generator) -> Field:
    """Draw everything but the liver's own tissue; return the share of each voxel that is liver."""
    bx, by = _BODY_MM
    far = 1e4  # half axis of a cylinder
    skin = scene.distance((0, 0, 0), (bx, by, far))
    fat_mm = float(rng.uniform(8, 24)) * scene.scale
    wall = skin - np.float32(fat_mm)
    cavity = wall - np.float32(rng.uniform(12, 17) * scene.scale)
    scene.blend(scene.cover(skin), _FAT)
    scene.blend(scene.cover(wall), float(rng.normal(_MUSCLE, 4)))
    _draw_ribs(scene, wall, rng)
    inside = scene.cover(cavity)
    scene.blend(inside, float(rng.uniform(-105, -85)))
    _draw_back(scene, inside, rng)
    liver_distance = np.minimum(_liver_distance(scene, rng), cavity - np.float32(2 * scene.scale))
    spine = scene.distance((0, -62, 0), (26, 26, far))
    liver_distance = np.minimum(liver_distance, -spine - np.float32(3 * scene.scale))
    liver = scene.cover(liver_distance)
    _draw_lungs(scene, inside, rng)
    _draw_neighbours(scene, inside, rng)
    return liver


def _in_one_piece(liver: Field) -> Field:
    """Return the cover without the parts that the body's other organs cut off."""
    import cc3d

    pieces = cc3d.connected_components(liver > 0.5, connectivity=26)
    sizes = np.bincount(pieces.ravel())
    if len(sizes) <= 2:
        return liver
    kept = 1 + int(sizes[1:].argmax())
    return np.where((pieces == kept) | (pieces == 0), liver, np.float32(0))


def _liver_distance(scene: _Scene, rng: np.random.Generator) -> Field:
    right = scene.distance(
        (70 + rng.uniform(-8, 8), 5 + rng.uniform(-10, 10), -5 + rng.uniform(-8, 8)),
        (62 + rng.uniform(-8, 10), 78 + rng.uniform(-12, 10), 76 + rng.uniform(-14, 12)),
    )
    left = scene.distance(
        (rng.uniform(-18, 12), 44 + rng.uniform(-8, 10), 18 + rng.uniform(-10, 15)),
        (58 + rng.uniform(-16, 14), 32 + rng.uniform(-8, 8), 38 + rng.uniform(-10, 10)),
    )
    caudate = scene.distance((28 + rng.uniform(-6, 6), -14 + rng.uniform(-8, 6), 12), (22, 22, 26))
    body = _union(_union(right, left, round_mm=14 * scene.scale), caudate, round_mm=8)
    body += _waves(scene, rng, 95) * np.float32(rng.uniform(2, 6) * scene.scale)
    body += _waves(scene, rng, 40) * np.float32(rng.uniform(0.5, 1.8) * scene.scale)
    gallbladder = scene.distance((48, 46, -48 + rng.uniform(-8, 8)), (16, 20, 24))
    return np.minimum(body, -gallbladder)


def _draw_ribs(scene: _Scene, wall: Field, rng: np.random.Generator) -> None:
    """Draw oblique rings of bone inside the body wall, open at the front."""
    pitch = float(rng.uniform(24, 30)) * scene.scale
    phase = float(rng.uniform(0, pitch))
    drop = scene.y * np.float32(0.45)  # ribs fall towards the front
    height = scene.z[:, None] + drop[None, :]
    along = np.abs((height + np.float32(phase)) % np.float32(pitch) - np.float32(pitch / 2))
    depth = np.abs(wall - np.float32(6 * scene.scale))
    ring = np.float32(5.5 * scene.scale) - np.sqrt(along[:, :, None] ** 2 + depth**2)
    is_behind = (scene.y < 62 * scene.scale).astype(np.float32)
    scene.blend(scene.cover(ring) * is_behind[None, :, None], float(rng.normal(_BONE - 70, 40)))


def _draw_back(scene: _Scene, inside: Field, rng: np.random.Generator) -> None:
    far = 1e4
    for side in (-1, 1):
        psoas = scene.distance((side * 46, -66, 0), (26, 24, far))
        scene.blend(scene.cover(psoas), float(rng.normal(_MUSCLE, 4)))
    bone = float(rng.normal(_BONE, 40))
    pitch = np.float32(32 * scene.scale)
    disc = np.abs(scene.z % pitch - pitch / 2) < np.float32(4 * scene.scale)
    vertebra = scene.cover(scene.distance((0, -62, 0), (21, 19, far)))
    spongy = scene.cover(scene.distance((0, -62, 0), (18, 16, far)))
    scene.blend(vertebra, bone)
    scene.blend(spongy, bone * 0.5)
    scene.hu[disc] += vertebra[disc] * (np.float32(90) - scene.hu[disc])
    scene.blend(scene.cover(scene.distance((0, -90, 0), (13, 12, far))), bone)
    scene.blend(scene.cover(scene.distance((0, -88, 0), (8, 7, far))), _CANAL)
    aorta, cava = float(rng.normal(165, 15)), float(rng.normal(140, 15))
    scene.organ((-10, -30, 0), (11, 11, far), aorta, within=inside)
    scene.organ((22, -34, 0), (12, 10, far), cava, within=inside)


def _draw_lungs(scene: _Scene, inside: Field, rng: np.random.Generator) -> None:
    """Fill the cavity with air above a dome on each side; what is below stays abdomen."""
    for side in (-1, 1):
        top = rng.uniform(58, 84) * scene.scale
        radius = 2.2 * ((scene.x / scene.scale - side * 68) / 100) ** 2
        dome = top - 45 * scene.scale * (
            radius[None, :] + ((scene.y / scene.scale + 8) / 85)[:, None] ** 2
        )
        is_side = (np.sign(scene.x) == side)[None, :] & (np.abs(scene.x) > 22 * scene.scale)[None]
        above = scene.z[:, None, None] - dome.astype(np.float32)[None]
        scene.blend(
            np.minimum(scene.cover(above), inside) * is_side.astype(np.float32)[None],
            float(rng.normal(_LUNG, 25)),
        )


def _draw_neighbours(scene: _Scene, inside: Field, rng: np.random.Generator) -> None:
    """Draw the organs a liver is mistaken for: spleen, kidneys, stomach, gut, gallbladder."""

    def near(value: float, by: float) -> float:
        return value + float(rng.uniform(-by, by))

    def draw(centre: Sequence[float], half: Sequence[float], hu: float) -> None:
        scene.organ(centre, half, hu, within=inside)

    draw((near(-88, 6), near(-32, 8), near(20, 10)), (30, 40, near(50, 10)), rng.normal(110, 10))
    stomach = (near(-60, 8), near(28, 6), near(14, 8))
    draw(stomach, (near(42, 8), near(34, 5), near(44, 8)), rng.normal(55, 8))
    draw(stomach, (34, 26, 34), rng.uniform(5, 35))
    draw((stomach[0], stomach[1] + 18, stomach[2] + 8), (20, 8, 18), -900)
    for side in (-1, 1):
        kidney = (side * near(62, 5), near(-56, 4), near(-58, 10))
        draw(kidney, (27, 26, near(50, 6)), rng.normal(165, 20))
        draw(kidney, (12, 11, 26), rng.normal(70, 25))
    for _ in range(6):
        gut = (near(-10, 90), near(35, 30), near(-75, 25))
        draw(gut, (near(18, 5), near(16, 4), near(20, 6)), rng.normal(50, 15))
        draw(gut, (11, 9, 12), rng.choice([-850.0, 20.0, 60.0]))
    draw((48, 46, -48), (14, 17, 21), rng.normal(12, 5))


def _draw_vessels(
    scene: _Scene,
    inside: npt.NDArray[np.bool_],
    liver: Field,
    liver_hu: float,
    rng: np.random.Generator,
) -> None:
    """Grow brighter tubes from the hilum and the vena cava; they stay part of the liver."""
    if not inside.any():
        return
    hu = liver_hu + float(rng.uniform(20, 50))
    cover = np.zeros_like(scene.hu)
    for root, radius, heading in (
        ((34.0, 8.0, -6.0), 6.0, (0.7, 0.3, 0.1)),
        ((26.0, -20.0, 48.0), 5.5, (0.5, 0.5, -0.6)),
    ):
        for start, stop, width in _branches(np.array(root), np.array(heading), radius, rng):
            _draw_tube(scene, cover, start * scene.scale, stop * scene.scale, width * scene.scale)
    scene.blend(np.minimum(cover, liver), hu)


def _branches(
    root: Vector, heading: Vector, radius: float, rng: np.random.Generator
) -> Iterator[tuple[Vector, Vector, float]]:
    """Yield the segments (start, stop, radius in mm) of a random binary tree."""
    live = [(root, heading / np.linalg.norm(heading), radius)]
    while live:
        start, along, width = live.pop()
        stop = start + along * rng.uniform(14, 24)
        yield start, stop, width
        if width < 1.6:
            continue
        for _ in range(2):
            turn = along + rng.normal(scale=0.5, size=3)
            live.append((stop, turn / np.linalg.norm(turn), width * rng.uniform(0.62, 0.82)))


def _draw_tube(scene: _Scene, cover: Field, start: Vector, stop: Vector, radius: float) -> None:
    centre, reach = (start + stop) / 2, np.abs(stop - start) / 2 + radius
    box = scene.box(list(centre), list(reach))
    sz, sy, sx = box
    if cover[box].size == 0:
        return
    axis = stop - start
    offsets = [
        a[s] - c for a, s, c in zip((scene.x, scene.y, scene.z), (sx, sy, sz), start, strict=True)
    ]
    ox, oy, oz = offsets[0][None, None, :], offsets[1][None, :, None], offsets[2][:, None, None]
    share = np.clip((ox * axis[0] + oy * axis[1] + oz * axis[2]) / float(axis @ axis), 0, 1)
    gap = np.sqrt(
        (ox - share * axis[0]) ** 2 + (oy - share * axis[1]) ** 2 + (oz - share * axis[2]) ** 2
    )
    np.maximum(cover[box], scene.cover((radius - gap).astype(np.float32)), out=cover[box])


def _draw_lesions(
    scene: _Scene,
    inside: npt.NDArray[np.bool_],
    count: int,
    diameters_mm: tuple[float, float],
    liver_hu: float,
    faint: float,
    rng: np.random.Generator,
) -> npt.NDArray[np.bool_]:
    """Draw up to `count` lesions apart from each other; return the voxels they hold."""
    tumour = np.zeros(inside.shape, dtype=bool)
    if count == 0 or not inside.any():
        return tumour
    low, high = np.log(diameters_mm)
    diameters = np.exp(rng.uniform(float(low), float(high), size=count))
    placed: list[tuple[Vector, float]] = []
    depth = _depth_mm(scene, inside)
    for diameter in sorted(diameters, reverse=True):
        spot = _place(scene, depth, diameter / 2, placed, rng)
        if spot is None:
            continue
        centre, radius = spot
        placed.append(spot)
        is_faint = rng.random() < faint
        hu = liver_hu - rng.uniform(12, 25) if is_faint else rng.uniform(40, 80)
        hu = min(float(hu), liver_hu - 12)
        tumour |= _draw_lesion(scene, inside, centre, radius, hu, rng)
    return tumour


def _depth_mm(scene: _Scene, inside: npt.NDArray[np.bool_]) -> Field:
    import edt

    steps = [float(a[1] - a[0]) if len(a) > 1 else 1.0 for a in (scene.z, scene.y, scene.x)]
    depth: Field = edt.edt(inside, anisotropy=steps, black_border=True, parallel=1)
    return depth


def _place(
    scene: _Scene,
    depth: Field,
    radius: float,
    placed: list[tuple[Vector, float]],
    rng: np.random.Generator,
) -> tuple[Vector, float] | None:
    """Return a centre and a radius: at least 45 % of the radius deep, clear of other lesions."""
    radius = min(radius, 1.6 * float(depth.max()))
    spots = np.flatnonzero(depth > max(0.45 * radius, 0.75 * scene.step))
    if spots.size == 0:
        return None
    for _ in range(60):
        z, y, x = np.unravel_index(int(rng.choice(spots)), depth.shape)
        centre = np.array([scene.x[x], scene.y[y], scene.z[z]], dtype=np.float64)
        gap = 1.25 * radius + 2 * scene.step
        if all(np.linalg.norm(centre - c) > gap + 1.25 * r for c, r in placed):
            return centre, radius
    return None


def _draw_lesion(
    scene: _Scene,
    inside: npt.NDArray[np.bool_],
    centre: Vector,
    radius: float,
    hu: float,
    rng: np.random.Generator,
) -> npt.NDArray[np.bool_]:
    """Draw one bumpy ball, some with a bright rim or a dark core; return its voxels."""
    held = np.zeros(inside.shape, dtype=bool)
    box = scene.box(list(centre), [1.3 * radius] * 3)
    sz, sy, sx = box
    ox, oy, oz = (
        a[s] - np.float32(c)
        for a, s, c in zip((scene.x, scene.y, scene.z), (sx, sy, sz), centre, strict=True)
    )
    stretch = rng.uniform(0.85, 1.15, size=3)
    gap = np.sqrt(
        (ox / stretch[0]) ** 2
        + (oy[:, None] / stretch[1]) ** 2
        + (oz[:, None, None] / stretch[2]) ** 2
    )
    bumps = sum(
        np.cos(k * oz[:, None, None] + p) * np.cos(k * oy[:, None] + q) * np.cos(k * ox)
        for k, p, q in (
            (rng.uniform(1.5, 3.0) / radius, *rng.uniform(0, 6.28, size=2)) for _ in range(2)
        )
    )
    distance = (radius * (1 + 0.09 * bumps) - gap).astype(np.float32)
    cover = scene.cover(distance) * inside[box]
    if radius > 8 and rng.random() < 0.25:
        scene.blend(scene.cover(distance + np.float32(2.5)) * inside[box], hu + 55, box)
    scene.blend(cover, hu, box)
    if radius > 10 and rng.random() < 0.4:
        core = scene.cover(distance - np.float32(rng.uniform(0.35, 0.6) * radius))
        scene.blend(core * inside[box], max(hu - 30, 12.0), box)
    held[box] = (distance > 0) & inside[box]
    z, y, x = (
        int(np.abs(a - c).argmin())
        for a, c in zip((scene.z, scene.y, scene.x), centre[::-1], strict=True)
    )
    held[z, y, x] = inside[z, y, x]  # a lesion smaller than a voxel still holds the one it is in
    return held


def _draw_couch(scene: _Scene) -> None:
    """Draw the thin curved table under the back, so that the body is not the only thing in air."""
    top = -(_BODY_MM[1] + 4) * scene.scale + 22 * (scene.x / (_BODY_MM[0] * scene.scale)) ** 2
    gap = np.abs(scene.y[:, None] - top[None, :].astype(np.float32))
    plate = scene.cover(np.float32(2.5) - gap) * (np.abs(scene.x) < 165 * scene.scale)[None]
    shell = np.broadcast_to(plate, scene.hu.shape) * (scene.hu < -900)
    scene.blend(shell, -250)


def _correlated_noise(shape: tuple[int, ...], sd: float, rng: np.random.Generator) -> Field | float:
    """Return noise of the given standard deviation, correlated as a soft CT kernel leaves it."""
    from scipy import ndimage

    if sd == 0:
        return 0.0
    noise = rng.standard_normal(shape, dtype=np.float32)
    noise = ndimage.gaussian_filter(noise, (0.3, 0.8, 0.8), mode="wrap")
    scaled: Field = noise * np.float32(sd / max(float(noise.std()), 1e-6))
    return scaled


def nuclei_picture(
    seed: int,
    shape: tuple[int, int] = (256, 256),
    *,
    count: tuple[int, int] = (25, 55),
    radius: tuple[float, float] = (7.0, 13.0),
    noise: float = 5.0,
) -> tuple[Image, Mask]:
    """Return a fluorescence-like picture of blurred elliptical nuclei, many of which touch.

    Parameters
    ----------
    seed : int
        The same seed and options give the same pixels.
    shape : tuple of int
        ``(y, x)``.
    count : tuple of int
        Fewest and most nuclei tried for; those that find no room are left out.
    radius : tuple of float
        Least and greatest mean radius in pixels.
    noise : float
        Standard deviation of the read-out noise, in grey levels.

    Returns
    -------
    Image
        uint8 grey picture, in pixels.
    Mask
        One id and one table row a nucleus, category ``nucleus``.
    """
    from scipy import ndimage

    rng = np.random.default_rng(seed)
    ids = np.zeros(shape, dtype=np.uint16)
    light = np.zeros(shape, dtype=np.float32)
    nearness = np.ones(shape, dtype=np.float32)  # squared, in radii of the nucleus that holds it
    wanted = int(rng.integers(*count, endpoint=True))
    for number, (centre, size) in enumerate(_nuclei_spots(shape, wanted, radius, rng), start=1):
        _draw_nucleus(ids, light, nearness, centre, size, number, rng)
    light = ndimage.gaussian_filter(light, 1.1)
    slope = np.add.outer(
        np.linspace(0, rng.uniform(-6, 6), shape[0]), np.linspace(0, rng.uniform(-6, 6), shape[1])
    )
    shot = rng.normal(0, 0.4, shape) * np.sqrt(light)
    grey = 18 + slope + light + shot + rng.normal(0, noise, shape)
    image = Image(np.clip(np.rint(grey), 0, 255).astype(np.uint8), Geometry.pixels(shape))
    return image, Mask.like(image, ids, LabelTable.objects(present_ids(ids), "nucleus"))


def _nuclei_spots(
    shape: tuple[int, int], wanted: int, radius: tuple[float, float], rng: np.random.Generator
) -> list[tuple[Vector, float]]:
    """Return centres (y, x) and radii; every other nucleus is pushed against an earlier one."""
    spots: list[tuple[Vector, float]] = []
    for attempt in range(40 * wanted):
        if len(spots) == wanted:
            break
        size = float(rng.uniform(*radius))
        centre = rng.uniform((0, 0), shape)
        if spots and attempt % 2:
            neighbour, other = spots[int(rng.integers(len(spots)))]
            angle = rng.uniform(0, 2 * np.pi)
            reach = 0.88 * (size + other)
            centre = neighbour + reach * np.array([np.sin(angle), np.cos(angle)])
        is_in = bool(((centre >= 2) & (centre < np.array(shape) - 2)).all())
        if is_in and all(np.hypot(*(centre - c)) > 0.86 * (size + r) for c, r in spots):
            spots.append((centre, size))
    return spots


def _draw_nucleus(
    ids: npt.NDArray[np.uint16],
    light: Field,
    nearness: Field,
    centre: Vector,
    size: float,
    number: int,
    rng: np.random.Generator,
) -> None:
    """Paint one bumpy ellipse; where two overlap, each pixel goes to the nearer in radii."""
    reach = 1.6 * size
    rows, columns = (
        slice(max(0, int(c - reach)), min(n, int(c + reach) + 1))
        for c, n in zip(centre, ids.shape, strict=True)
    )
    dy = np.arange(rows.start, rows.stop)[:, None] - centre[0]
    dx = np.arange(columns.start, columns.stop)[None, :] - centre[1]
    turn, long = rng.uniform(0, np.pi), rng.uniform(1.0, 1.25)
    u = (np.cos(turn) * dx + np.sin(turn) * dy) / (size * long)
    v = (np.cos(turn) * dy - np.sin(turn) * dx) / (size / long)
    lobes = 1 + 0.05 * np.cos(rng.integers(2, 5) * np.arctan2(v, u) + rng.uniform(0, 6.28))
    gap = ((u**2 + v**2) / lobes**2).astype(np.float32)
    part = (rows, columns)
    is_held = gap < nearness[part]
    ids[part][is_held] = number
    nearness[part][is_held] = gap[is_held]
    glow = rng.uniform(45, 170) * (1 - 0.35 * gap) * (1 + 0.08 * np.cos(3 * u + 5 * v))
    light[part][is_held] = glow[is_held]
