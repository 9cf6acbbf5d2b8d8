"""Datasets: open one, see what another format would lose, write it, and prove the result."""

import sys
from pathlib import Path

import maskloop
from maskloop.desk.datasets import plan


def main(source: Path, out: Path, to: str) -> None:
    dataset = maskloop.open_dataset(source)
    print(f"{dataset.name}: {len(dataset)} items of {dataset.format}, {dataset.kind}")
    print("classes:", ", ".join(row.name for row in dataset.scheme.values()))
    planned = plan(dataset, to)
    for words in planned.losses:
        print("lost:", words)
    print(planned.write(out).to_text())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
