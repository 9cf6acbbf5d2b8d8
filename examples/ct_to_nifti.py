"""CT to verified NIfTI: predict, keep the largest liver, export, score against the truth."""

import sys
from pathlib import Path

import maskloop


def main(image: Path, truth: Path, out: Path) -> None:
    draft = maskloop.predict(image, "phantom-liver")
    corrected = maskloop.correct(draft.mask, "islands", image=image, label="liver")
    receipt = maskloop.export(corrected.mask, out, image=image)
    print(receipt.to_text())
    for row in maskloop.score(out, truth)["labels"]:
        print(row["name"], row["dice"])


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
