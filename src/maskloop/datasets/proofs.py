"""The rules that `validate` proves: a code, what it says, the cure, and how grave it is."""

from __future__ import annotations

import reprlib
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from maskloop.datasets.base import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from maskloop.datasets.base import Severity

MOST_SHOWN = 20  # of each code; the rest is counted


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that must hold.

    Parameters
    ----------
    code : str
        ``J`` JSON, ``S`` structure, ``G`` geometry, ``P`` panoptic, ``C`` consumers, ``T`` truth,
        ``D`` any dataset, ``X`` other people's readers; then a number.
    title : str
        What must hold, for tables.
    cure : str
        What to do where it does not.
    severity : {"error", "warning"}
    """

    code: str
    title: str
    cure: str
    severity: Severity = "error"


def _rules(*rules: Rule) -> dict[str, Rule]:
    return {rule.code: rule for rule in rules}


RULES = _rules(
    Rule("J0", "the file is whole, strict JSON", "copy it again, or export it anew"),
    Rule(
        "J1",
        "lists of images, annotations and categories, each of objects",
        "choose the annotations file, or export it anew",
    ),
    Rule(
        "J2",
        "an info block",
        'add "info": {}; loadRes of pycocotools 2.0.9 and 2.0.10 fails without it',
        "warning",
    ),
    Rule("S1", "image ids are whole numbers", "number the images 1, 2, 3, ..."),
    Rule("S2", "image ids are unique", "renumber the images and what refers to them"),
    Rule("S3", "each file name stands once", "join the entries, or correct the name"),
    Rule(
        "S4",
        "annotation ids are unique whole numbers from 1",
        "renumber them from 1: the id 0 counts as a miss in COCOeval, and of repeated ids one is "
        "lost",
    ),
    Rule("S5", "category ids are unique whole numbers from 1", "number the categories from 1"),
    Rule("S6", "each category has a name of its own", "name the category; join those of one name"),
    Rule("S7", "annotations refer to images and categories that exist", "add or correct the entry"),
    Rule(
        "S8",
        "file names are relative POSIX paths inside the folder",
        "write the name relative to the folder of pictures, with forward slashes",
    ),
    Rule(
        "S9",
        "width and height are those of the stored picture",
        "correct the entry; EXIF turns nothing in COCO",
    ),
    Rule("S10", "the pictures exist and open", "put the picture where its name says"),
    Rule("S11", "iscrowd is 0 or 1", "write 0 for an object, 1 for a group"),
    Rule("S12", "there is something to learn from", "check how it was exported", "warning"),
    Rule("S13", "no picture lies in two splits", "split anew, by patient, slide or video"),
    Rule("G1", "every annotation has a mask", "draw it, or remove the annotation"),
    Rule(
        "G2",
        "run lengths have the image's [height, width]",
        "export with the picture's own size, height first",
    ),
    Rule(
        "G3",
        "run lengths are well formed and add up to the picture",
        "write counts as text of the COCO alphabet or as whole numbers; decode bytes to ASCII",
    ),
    Rule(
        "G4",
        "polygons have three corners or more, inside the picture",
        "repair or remove the ring: four numbers are read as a box",
    ),
    Rule("G5", "a mask has pixels", "draw it, or remove the annotation"),
    Rule("G6", "area is that of the mask", "write the number of the mask's pixels"),
    Rule(
        "G7",
        "bbox is [x, y, width, height] round the mask",
        "write x, y, width, height; pixel 0 alone is [0, 0, 1, 1]",
    ),
    Rule("G8", "no mask stands twice", "remove one of the two", "warning"),
    Rule("P1", "categories say isthing and colour", 'write "isthing": 0 or 1 for each'),
    Rule("P2", "each image has its RGB PNG of 8 bits", "write the PNG anew beside the JSON"),
    Rule("P3", "the PNG has the picture's size", "write the PNG on the picture's own grid"),
    Rule(
        "P4",
        "every id of the PNG stands in the JSON",
        "add the segment; id = red + 256 green + 65536 blue",
    ),
    Rule("P5", "every segment of the JSON is in the PNG", "remove the segment, or draw it"),
    Rule(
        "P6",
        "segments have iscrowd and area",
        "add them: the panoptic score fails without",
    ),
    Rule("P7", "area and bbox of a segment are those of the PNG", "count them from the PNG"),
    Rule(
        "P8",
        "there are things and stuff",
        "the panoptic score divides by zero without one of each: score things or stuff alone",
        "warning",
    ),
    Rule("P9", "segment ids are unique and from 1; classes exist", "renumber the segments"),
    Rule("P10", "stuff is one segment an image", "join the segments of one class of stuff"),
    Rule(
        "P11",
        "annotations stand in the order of images",
        "sort them alike: mmdet pairs the two lists by place",
        "warning",
    ),
    Rule("P12", "each image has one annotation", "add the missing, or join the doubled"),
    Rule(
        "C1",
        "at most 100 objects of a class on an image",
        "raise maxDets: COCOeval keeps 100, so the file scores below 1 against itself",
        "warning",
    ),
    Rule(
        "C2",
        "not every object is a crowd",
        "write iscrowd 0 for single objects: crowds are neither trained on nor scored",
    ),
    Rule(
        "C3",
        "images are 32 pixels or more",
        "know that mmdet leaves smaller ones out while training",
        "warning",
    ),
    Rule(
        "C4",
        "no dots inside file names",
        "rename: the panoptic converters cut names at the first dot",
        "warning",
    ),
    Rule(
        "C5",
        "pictures of a panoptic set are .jpg",
        "know that detectron2 looks for .jpg only",
        "warning",
    ),
    Rule("C6", "no key ignore", "remove it: detectron2 stops at it; iscrowd says it", "warning"),
    Rule(
        "C7",
        "pictures differ by more than their suffix",
        "rename one: CVAT and label folders know pictures by name without suffix",
        "warning",
    ),
    Rule("T1", "the categories are those of the truth", "keep the categories' ids and names"),
    Rule("T2", "the images are those of the truth", "export all images, empty ones too"),
    Rule("T3", "every object of the truth is there", "export it anew and look at this object"),
    Rule("T4", "there is no object beside the truth's", "one annotation an object, with all parts"),
    Rule("T5", "every object has the truth's pixels", "export run lengths instead of polygons"),
    Rule("T6", "every object has the truth's class", "check how classes were numbered"),
    Rule("T7", "crowds are the truth's", "write iscrowd as it was"),
    Rule("D0", "it opens", "read the message; it says what to do"),
    Rule("D1", "every item reads", "repair or remove the file"),
    Rule("D2", "every id has a row, and rows have names", "name the id in the table of labels"),
    Rule("D3", "pictures exist and open", "put the picture beside its mask"),
    Rule("D4", "a picture has its mask's size", "write the mask on its picture's grid"),
    Rule(
        "D5",
        "pictures and masks come in pairs",
        "draw the missing mask, or remove the picture",
        "warning",
    ),
    Rule("D6", "values of masks are classes of the dataset", "correct the mask, or add the class"),
    Rule("D7", "no group lies in two splits", "split by patient, slide or video, never by slice"),
    Rule("D8", "there is something to learn from", "check how it was written", "warning"),
    Rule(
        "D9", "files are those of the receipt", "convert anew, or ask who changed them", "warning"
    ),
    Rule("D10", "nothing is to be told on opening", "read the notice", "warning"),
    Rule("X1", "other people's readers load it", "read their message"),
    Rule(
        "X2",
        "other people's readers count the same",
        "do not train with that reader on this set, or export what it does not leave out",
        "warning",
    ),
    Rule(
        "X3",
        "other people's readers see the same pixels",
        "do not measure with that reader, or export run lengths",
        "warning",
    ),
)


class Findings:
    """Problems as they are found: the first few of each code and severity, and how many of all."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, Severity]] = Counter()
        self._kept: list[Problem] = []

    def add(
        self,
        code: str,
        words: str,
        where: str = "",
        *,
        severity: Severity | None = None,
        cure: str = "",
    ) -> None:
        """Note a breach of a rule; the cure and the severity are the rule's where left out."""
        rule = RULES[code]
        severity = severity or rule.severity
        self.take(Problem(code, words, cure or rule.cure, _printable(where), severity))

    def take(self, problem: Problem) -> None:
        """Note a problem that a format found by itself."""
        self.counts[problem.code, problem.severity] += 1
        if self.counts[problem.code, problem.severity] <= MOST_SHOWN:
            self._kept.append(problem)

    def __iter__(self) -> Iterator[Problem]:
        """Yield what was kept, errors first, else in the order of finding."""
        yield from sorted(self._kept, key=lambda one: one.severity != "error")

    def total(self, severity: Severity) -> int:
        """Return how many there are of a severity, those not kept too."""
        return sum(count for (_, grade), count in self.counts.items() if grade == severity)


def shown(value: object) -> str:
    """Return a value as a message shows it, short however large it is."""
    return _SHORT.repr(value)


def _printable(text: str) -> str:
    """Return text from a file without what a terminal would obey, and not endless."""
    plain = "".join(c if c.isprintable() else "?" for c in text[:_LONGEST])
    return plain if len(text) <= _LONGEST else f"{plain}..."


_LONGEST = 200
_SHORT = reprlib.Repr()
_SHORT.maxstring = 48
_SHORT.maxlist = _SHORT.maxdict = _SHORT.maxlevel = 5
_SHORT.maxother = 48
