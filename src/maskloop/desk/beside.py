"""What is kept beside predicted masks: candidates, probabilities, objects with their overlaps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from maskloop.desk.overlaps import OverlapFiles
from maskloop.desk.probabilities import ProbabilityFiles
from maskloop.desk.worklists import Worklists
from maskloop.ops.candidates import Sieve

if TYPE_CHECKING:
    from maskloop.formats.verify import Receipt
    from maskloop.loop.predict import Prediction
    from maskloop.models.cards import ModelCard


@dataclass(frozen=True, slots=True)
class Beside:
    """The files asked for; None where one was not."""

    lists: Worklists | None
    files: ProbabilityFiles | None
    objects: OverlapFiles | None

    @classmethod
    def of(
        cls,
        card: ModelCard,
        images: int,
        *,
        worklist: Path | str | None,
        low: float,
        probabilities: Path | str | None,
        overlaps: Path | str | None,
    ) -> Beside:
        """Return the files that so many images of one model go into; arguments as `predict_all`.

        Raises
        ------
        InputError
            If a place holds something else, or the model finds no objects to keep.
        """
        if overlaps is not None:
            from maskloop.models.answers import require_objects

            require_objects(card)
        return cls(
            None if worklist is None else Worklists.of(Path(worklist), card.name, low),
            None if probabilities is None else ProbabilityFiles.of(Path(probabilities), images),
            None if overlaps is None else OverlapFiles.of(Path(overlaps), card.name, card.labels),
        )

    @property
    def sieve(self) -> Sieve | None:
        """What of the candidates is wanted; None where none are."""
        return None if self.lists is None else Sieve(self.lists.low)

    def knows(self, receipt: Receipt) -> bool:
        """Return whether all that is wanted is there for this very mask."""
        wanted = (self.lists, self.files, self.objects)
        return all(one is None or one.knows(receipt) for one in wanted)

    def put(self, image: Path, receipt: Receipt, found: Prediction) -> None:
        """Keep what is wanted of one image; each file is replaced whole or not at all.

        Raises
        ------
        StorageError
            If the disk refuses.
        """
        if self.files is not None and found.probabilities is not None:
            self.files.put(receipt, found.mask, found.probabilities)
        if self.objects is not None and found.objects is not None:
            self.objects.put(image, receipt, found.mask, found.objects)
        if self.lists is not None:
            self.lists.put(image, receipt, found.candidates)
