"""A case: a model drafts, a reader corrects, the model runs again and leaves the corrections."""

import shutil
import sys
from pathlib import Path

import maskloop
from maskloop.desk.draft import draft


def main(image: Path, work: Path) -> None:
    scan = Path(shutil.copy(image, work / image.name))
    with maskloop.open_case(scan, author="anna") as case:
        draft(case, scan, "phantom-liver")
        case.paint((24, 40, 40), radius_mm=8, label="tumour")  # a lesion that the model missed
        maskloop.correct(case, "grow", image=scan, label="liver", parameters={"margin": 4})
        again = draft(case, scan, "phantom-liver")
        if again.refused is not None:
            print(again.refused.words)
        print(case.history.steps)
        case.undo()  # the second run, and only that
        folder = case.folder
    for found in maskloop.measure(folder, image=scan)["objects"][:3]:
        print(found["name"], found["volume_mm3"], found["long_axis_mm"])


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
