"""Prove a dataset: structure, geometry, truth, panoptic and consumer rules, each with a cure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskloop import datasets
from maskloop.core.errors import Cancelled, FormatError
from maskloop.core.job import Job
from maskloop.datasets import (
    proofs_file,
    proofs_geometry,
    proofs_items,
    proofs_panoptic,
    proofs_structure,
)
from maskloop.datasets.base import Options, Problem
from maskloop.datasets.proofs import RULES, Findings, shown
from maskloop.datasets.proofs_truth import Piece, compare, pieces_of, united
from maskloop.formats.base import missing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from maskloop.core.dataset import Sample
    from maskloop.datasets.base import DatasetFormat
    from maskloop.datasets.proofs_file import CocoFile, Shot
    from maskloop.desk.validate_truth import Truth

__all__ = ["RULES", "Validation", "validate"]


@dataclass(frozen=True, slots=True, eq=False)
class Validation:
    """What a dataset was found to be.

    Parameters
    ----------
    path : Path
    format : str
        Name of its format; empty where none knows it.
    problems : tuple of Problem
        Errors first; at most 20 of each code.
    counts : mapping of str to int
        How many there are of each code, those not listed too.
    errors, warnings : int
    checked : mapping of str to int
        How many images, annotations, items, true objects were looked at.
    peers : tuple of dict
        What other people's readers said, where they were asked.
    """

    path: Path
    format: str
    problems: tuple[Problem, ...]
    counts: dict[str, int]
    errors: int
    warnings: int
    checked: dict[str, int]
    peers: tuple[dict[str, Any], ...] = ()  # Any: plain JSON values

    @property
    def verdict(self) -> str:
        """``"PASS"`` where nothing fails, else ``"FAIL"``; warnings do not fail."""
        return "FAIL" if self.errors else "PASS"

    def to_json(self) -> dict[str, Any]:  # Any: plain JSON values
        """Return the findings as JSON-ready values."""
        return {
            "path": str(self.path),
            "format": self.format,
            "verdict": self.verdict,
            "errors": self.errors,
            "warnings": self.warnings,
            "checked": self.checked,
            "counts": self.counts,
            "problems": [
                {
                    "code": one.code,
                    "severity": one.severity,
                    "where": one.where,
                    "words": one.words,
                    "cure": one.cure,
                }
                for one in self.problems
            ],
            "peers": list(self.peers),
        }

    def to_text(self) -> str:
        """Return the findings in lines for people: each code once, its places below it."""
        looked = ", ".join(_count(count, what) for what, count in self.checked.items())
        told = f"{_count(self.errors, 'errors')}, {_count(self.warnings, 'warnings')}"
        about = "; ".join(part for part in (self.format or "unknown format", looked, told) if part)
        lines = [f"{self.verdict}  {self.path}  ({about})"]
        groups: dict[tuple[str, str, str], list[Problem]] = {}
        for one in self.problems:
            groups.setdefault((one.code, one.severity, one.cure), []).append(one)
        for (code, severity, cure), found in groups.items():
            title = RULES[code].title if code in RULES else ""
            lines.append(f"{severity:<8} {code:<4} {title}".rstrip())
            lines += [f"    {one.where}: {one.words}".replace("    : ", "    ") for one in found]
            more = self.counts[code] - sum(one.code == code for one in self.problems)
            if more > 0:
                lines.append(f"    and {more:,} more of {code}")
            lines.append(f"    cure: {cure}")
        return "\n".join([*lines, *(_peer_line(peer) for peer in self.peers)])


def validate(
    path: Path | str,
    *,
    format: str | None = None,
    truth: Path | str | None = None,
    peers: bool = False,
    python: Path | str | None = None,
    options: Options | None = None,
    job: Job | None = None,
) -> Validation:
    """Look for everything that is wrong with a dataset; nothing of it is changed.

    COCO files are parsed here anew, apart from the code that reads and writes them; all other
    formats are opened by their own readers, item by item.

    Parameters
    ----------
    path : Path or str
        Folder or file of a dataset.
    format : str, optional
        Name of its format; found out where left out.
    truth : Path or str, optional
        The label arrays: a dataset, or a folder of mask files named as their images. Every object
        is compared with them pixel by pixel.
    peers : bool
        Whether other people's readers are asked too, each in a process of its own.
    python : Path or str, optional
        The Python in which those are installed; this one where left out.
    options : Options, optional
        For reading, such as a profile of one's own.
    job : Job, optional
        Progress and cancel.

    Raises
    ------
    MissingFileError
        If nothing is at the path, or at the truth's.
    UnknownNameError
        If the named format is not known.
    """
    path, options, job = Path(path), options or Options(), job or Job()
    if not path.exists():
        raise missing(path, "a dataset")
    true = _truth(truth, job)
    findings, checked = Findings(), Counter[str]()
    chosen = datasets.get(format) if format is not None else None
    files = proofs_file.coco_files(path) if format in (None, *_COCO, "coco-volume") else []
    if format in _COCO and not files:
        files = [path] if path.is_file() else sorted(path.rglob("*.json"))[:100]
    if chosen is None:
        chosen = _known(path, files, findings)
    name = chosen.name if chosen is not None else "coco" if files else ""
    if files:
        _check_files(files, true, name in _COCO, findings, checked, job)
    if chosen is not None and (name not in _COCO or not files):
        _check_dataset(path, chosen, true, bool(files), options, findings, checked, job)
    if path.is_dir():
        proofs_items.check_receipt(path, findings, job)
    answers: tuple[dict[str, Any], ...] = ()
    if peers and files:
        from maskloop.desk.validate_peers import ask

        answers = ask(files, findings, python=python, job=job)
    counts: dict[str, int] = {}
    for (code, _), count in sorted(findings.counts.items()):
        counts[code] = counts.get(code, 0) + count
    return Validation(
        path,
        name,
        tuple(findings),
        counts,
        findings.total("error"),
        findings.total("warning"),
        dict(checked),
        answers,
    )


_COCO = ("coco", "coco-panoptic")


def _truth(truth: Path | str | None, job: Job) -> Truth | None:
    if truth is None:
        return None
    from maskloop.desk.validate_truth import truth_of

    return truth_of(Path(truth), job)


def _known(path: Path, files: list[Path], findings: Findings) -> DatasetFormat | None:
    """Return the format of a path; where none knows it, tell why, unless it is COCO's."""
    try:
        return datasets.format_of(path)
    except FormatError as error:
        if files:
            return None
        if path.suffix.lower() == ".json":
            proofs_file.parsed(path, findings)
        else:
            findings.add("D0", str(error), path.name)
        return None


def _check_files(
    files: list[Path],
    truth: Truth | None,
    is_plain: bool,
    findings: Findings,
    checked: Counter[str],
    job: Job,
) -> None:
    """Prove COCO files; the truth of a volume format is compared item by item elsewhere."""
    compared: set[str] = set()
    masked: list[CocoFile] = []
    without: list[CocoFile] = []
    drawn = 0
    for path in files:
        file = proofs_file.parsed(path, findings)
        if file is None:
            continue
        checked["annotations"] += len(file.annotations)
        checked["images"] += len(file.images)
        if file.annotations and not file.has_masks:
            without.append(file)
            continue
        drawn += len(file.annotations)
        masked.append(replace(file, annotations=()))  # one file's annotations at a time in memory
        proofs_structure.check_pictures(file, findings, job)
        if file.is_panoptic:
            proofs_panoptic.check_panoptic(file, findings, job)
        else:
            proofs_structure.check_annotations(file, findings, job)
            proofs_geometry.check_geometry(file, findings, job)
        if truth is not None and is_plain:
            compared |= _compare_file(file, truth, findings, checked, job)
    proofs_structure.check_splits(masked, findings)
    for file in without:
        # Captions, keypoints and boxes lie beside the masks in COCO's own folder.
        words = f"expected masks, got {_count(len(file.annotations), 'annotations')} without any"
        findings.add("G1", words, file.path.name, severity="warning" if drawn else "error")
    if masked and not drawn and not without:
        findings.add("S12", "expected annotations, got none", files[0].name)
    if truth is not None and is_plain:
        _tell_missing(truth, compared, findings)


def _tell_missing(truth: Truth, compared: set[str], findings: Findings) -> None:
    for name in truth.names:
        if name not in compared:
            findings.add("T2", "expected this image of the truth, got none of its name", name)


def _compare_file(
    file: CocoFile, truth: Truth, findings: Findings, checked: Counter[str], job: Job
) -> set[str]:
    """Compare each image of a file with the truth; return the names that were compared."""
    _compare_categories(file, truth, findings)
    by_image: dict[int, list[dict[str, Any]]] = {}  # Any: plain JSON values
    for annotation in file.annotations:
        number = proofs_file.key_of(annotation.get("image_id"))
        by_image.setdefault(number, []).append(annotation)
    done: set[str] = set()
    for shot in job.track(list(file.images.values()), "compare with the truth"):
        name = truth.name_of(shot.stem)
        where = f"{file.path.name}: image {shot.name}"
        if name is None:
            words = "expected an image of the truth, got one that it lacks"
            findings.add("T2", words, where, severity="warning")
            continue
        done.add(name)
        pieces = partial(_pieces, file, shot, by_image.get(shot.id, []))
        shape = (shot.height, shot.width)
        _compare_item(truth, name, shape, pieces, where, findings, checked, job)
    return done


def _pieces(
    file: CocoFile, shot: Shot, annotations: Iterable[dict[str, Any]]
) -> list[Piece]:  # Any: plain JSON values
    found = []
    for annotation in annotations:
        if file.is_panoptic:
            parts = proofs_panoptic.segments_of(file, annotation, shot)
        else:
            drawn = proofs_geometry.region_of(file, annotation, shot)
            parts = [] if drawn is None else [(annotation, *drawn)]
        for entry, box, region in parts:
            category = file.categories.get(proofs_file.key_of(entry.get("category_id")), {})
            where = file.where(annotation)
            if file.is_panoptic:
                where = f"{file.path.name}: segment {shown(entry.get('id'))} ({shot.name})"
            name = str(category.get("name", ""))
            found.append(Piece(name, box, region, where, bool(entry.get("iscrowd"))))
    return found


def _compare_item(
    truth: Truth,
    name: str,
    shape: tuple[int, ...],
    pieces: Callable[[], list[Piece]],
    where: str,
    findings: Findings,
    checked: Counter[str],
    job: Job,
) -> None:
    """Compare one item with the truth; its masks are decoded only if their size is the truth's."""
    try:
        wanted, meant, is_classes = truth.pieces(name, job)
    except Cancelled:
        raise
    except proofs_items.FAILURES as error:
        words = f"expected a truth that reads, got {proofs_items.said(error)}"
        findings.add("T2", words, name)
        return
    if tuple(wanted) != tuple(shape):
        findings.add("T2", f"expected shape {wanted}, as the truth's, got {shape}", where)
        return
    found = united(pieces(), where) if is_classes else pieces()
    checked["true objects"] += len(meant)
    compare(meant, found, findings)


def _compare_categories(file: CocoFile, truth: Truth, findings: Findings) -> None:
    known = {str(c.get("name")): number for number, c in file.categories.items()}
    for name, number in truth.classes.items():
        if name not in known:
            findings.add("T1", f"expected the category {shown(name)}, got none", file.path.name)
        elif truth.has_own_ids and known[name] != number:
            words = f"expected id {number} for {shown(name)}, got {known[name]}"
            findings.add("T1", words, file.path.name)


def _check_dataset(
    path: Path,
    chosen: DatasetFormat,
    truth: Truth | None,
    has_slices: bool,
    options: Options,
    findings: Findings,
    checked: Counter[str],
    job: Job,
) -> None:
    """Prove a dataset of any format through its own reader, and by the format's own rules."""
    dataset = proofs_items.opened(path, chosen, options, findings, job)
    compared: set[str] = set()

    def look(sample: Sample) -> None:
        checked["regions"] += sum(len(mask.ids()) for mask in sample.masks)
        if truth is None:
            return
        name = truth.name_of(sample.item.name)
        if name is None:
            words = "expected an item of the truth, got one that it lacks"
            findings.add("T2", words, sample.item.name, severity="warning")
            return
        compared.add(name)
        shape = sample.masks[0].data.shape
        pieces = partial(pieces_of, sample)
        _compare_item(truth, name, shape, pieces, sample.item.name, findings, checked, job)

    if dataset is not None:
        checked["items"] += len(dataset.items)
        proofs_items.check_items(dataset, findings, job, has_slices=has_slices, look=look)
        if truth is not None:
            _tell_missing(truth, compared, findings)
    if chosen.check is not None:
        try:
            for problem in chosen.check(path, options=options, job=job):
                findings.take(problem)
        except Cancelled:
            raise
        except proofs_items.FAILURES as error:
            findings.add(
                "D0", f"expected {chosen.title}, got {proofs_items.said(error)}", path.name
            )


def _count(count: int, plural: str) -> str:
    return f"{count:,} {plural.removesuffix('s') if count == 1 else plural}"


def _peer_line(peer: dict[str, Any]) -> str:  # Any: plain JSON values
    told = f"{peer['name']} {peer['version']}".strip()
    return f"peer     {told}: {peer['words']}"
