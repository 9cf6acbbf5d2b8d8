"""Ask other people's COCO readers what they make of a file; none can stop or hang the asking."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from maskloop.core.errors import InputError
from maskloop.datasets.proofs_file import is_file, parsed
from maskloop.datasets.proofs_geometry import region_of
from maskloop.desk import peer
from maskloop.desk.peer import NAMES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from maskloop.core.job import Job
    from maskloop.datasets.base import Severity
    from maskloop.datasets.proofs import Findings
    from maskloop.datasets.proofs_file import CocoFile

TIMEOUT_S = 120
_IMAGES = 20  # whose pixels are compared
_MOST_PIXELS = 1 << 27  # of an image whose masks are compared
_EXACT = ("pycocotools", "faster-coco-eval")  # what they decode is what the format means
Answer = dict[str, Any]  # Any: plain JSON values


def ask(
    files: Sequence[Path],
    findings: Findings,
    *,
    python: Path | str | None = None,
    job: Job,
    timeout_s: float = TIMEOUT_S,
) -> tuple[Answer, ...]:
    """Return what each reader said of each file of instances, and note where they differ.

    Parameters
    ----------
    python : Path or str, optional
        The Python whose packages are asked; this one where left out.
    timeout_s : float
        How long one reader may take for one file.
    """
    from maskloop.datasets.proofs import Findings as Aside

    answers = []
    for path in files:
        file = parsed(path, Aside())
        if file is None or file.is_panoptic or not file.has_masks:
            continue
        sizes = {n: shot.height * shot.width for n, shot in file.images.items()}
        chosen = [n for n, size in sizes.items() if size <= _MOST_PIXELS][:_IMAGES]
        ours = {str(n): _prints(file, n) for n in chosen}
        for name in job.track(NAMES, f"ask others about {path.name}"):
            answer = _asked(name, file, chosen, python, timeout_s)
            answers.append(
                {"name": name, "file": path.name, **_judged(name, answer, file, ours, findings)}
            )
    return tuple(answers)


def _asked(
    name: str, file: CocoFile, chosen: list[int], python: Path | str | None, timeout_s: float
) -> Answer:
    """Run one reader in a process of its own and return its answer."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "answer.json"
        # Isolated: the names of our modules must not hide packages that a reader imports.
        command = [
            str(python or sys.executable),
            "-I",
            peer.__file__,
            name,
            str(file.path.resolve()),
        ]
        command += [str(file.pictures.resolve()), json.dumps(chosen), str(out)]
        try:
            done = subprocess.run(
                command, capture_output=True, timeout=timeout_s, cwd=folder, check=False
            )
        except subprocess.TimeoutExpired:
            return {"version": "", "error": f"no answer within {timeout_s:g} s"}
        except OSError as error:
            msg = f"expected a Python to run at {str(python)!r}, got {error.strerror!r}"
            raise InputError(f"{msg}; name another") from error
        if not out.is_file():
            return {"version": "", "error": f"its process ended with code {done.returncode}"}
        try:
            found: Answer = json.loads(out.read_text(encoding="utf-8"))
        except ValueError:
            return {"version": "", "error": "its answer is no JSON"}
        return found


def _prints(file: CocoFile, image: int) -> Counter[str]:
    """Return hashes of the masks of one image, in the whole picture."""
    shot = file.images[image]
    found = Counter[str]()
    for annotation in file.annotations:
        if annotation.get("image_id") != image:
            continue
        picture = np.zeros(shot.size, bool)
        drawn = region_of(file, annotation, shot)
        if drawn is not None:
            picture[drawn[0]] = drawn[1]
        bits = np.packbits(picture).tobytes()
        found[hashlib.sha1(bits, usedforsecurity=False).hexdigest()] += 1
    return found


def _judged(
    name: str, answer: Answer, file: CocoFile, ours: dict[str, Counter[str]], findings: Findings
) -> Answer:
    """Return an answer in words, and note what of it is a problem."""
    where = f"{file.path.name}: {name}"
    told = {"version": answer.get("version", "")}
    if answer.get("is_missing"):
        return {**told, "words": "not installed"}
    if "error" in answer:
        is_bare = not any(is_file(file.pictures / shot.name) for shot in file.images.values())
        if is_bare and name in ("torchvision", "supervision"):
            return {**told, "words": "not asked: it needs the pictures"}
        findings.add("X1", f"expected it to load, got {answer['error']}", where)
        return {**told, "words": f"fails: {answer['error']}"}
    words = f"{answer['images']:,} images, {answer['annotations']:,} objects"
    wanted = [len(file.images), len(file.annotations)]
    counted = [answer["images"], answer["annotations"]]
    if counted != wanted:
        expected = f"{wanted[0]:,} images and {wanted[1]:,} objects"
        findings.add("X2", f"expected {expected}, got {words}", where)
    if not answer.get("masks"):
        return {**told, "words": f"{words}; no masks compared"}
    compared = sum(map(len, answer["masks"].values()))
    unlike = sum(
        (Counter(prints) - ours.get(number, Counter())).total()
        for number, prints in answer["masks"].items()
    )
    if unlike:
        grade: Severity = "error" if name in _EXACT else "warning"
        got = f"{unlike} of {compared} unlike"
        findings.add("X3", f"expected the same pixels, got {got}", where, severity=grade)
    return {**told, "words": f"{words}; {compared - unlike} of {compared} masks alike"}
