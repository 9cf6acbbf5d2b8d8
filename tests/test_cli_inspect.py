"""``maskloop models`` lists; ``maskloop models inspect`` looks into a network."""

from __future__ import annotations

import json

import pytest

from maskloop.cli import run

UNET = ["models", "inspect", "unet"]


def asked(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    assert run(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def test_models_alone_still_lists(capsys: pytest.CaptureFixture[str]) -> None:
    assert "phantom-liver" in {row["name"] for row in asked(["models", "--json"], capsys)["models"]}  # type: ignore[attr-defined]
    assert run(["models"]) == 0
    assert "phantom-liver" in capsys.readouterr().out


def test_inspect_prints_exactly_these_keys(capsys: pytest.CaptureFixture[str]) -> None:
    found = asked(
        [*UNET, "--variant", "2015", "--classes", "2", "--channels", "1", "--json"], capsys
    )
    assert list(found) == ["parameters", "gmac", "output_shape", "memory_mb", "layers"]
    assert found["parameters"] == 31_030_658
    assert found["output_shape"] == [1, 2, 388, 388]


@pytest.mark.parametrize(
    ("size", "shape"),
    [
        (["--size", "32", "40"], [1, 2, 32, 40]),
        (["--size", "32x40"], [1, 2, 32, 40]),
        (["--size=32x40"], [1, 2, 32, 40]),
        (["--size", "32"], [1, 2, 32, 32]),
        (["--variant", "residual3d", "--size", "16", "24", "32"], [1, 2, 16, 24, 32]),
    ],
)
def test_sizes_of_two_or_three_numbers(
    size: list[str], shape: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    family = "unet" if len(shape) == 5 else "segnet"
    for arguments in ([*size, family], [family, *size]):
        found = asked(["models", "inspect", *arguments, "--json"], capsys)
        assert found["output_shape"] == shape


def test_people_get_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*UNET, "--size", "188"]) == 0
    text = capsys.readouterr().out
    assert "31,030,658" in text
    assert "1 x 2 x 4 x 4" in text
    assert "ConvTranspose2d" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nope"], "unet"),
        (["unet", "--variant", "1998"], "residual3d"),
        (["unet", "--size", "570", "570"], "570"),
        (["unet", "--size", "64", "64", "64"], "H W"),
        (["unet", "--size", "1x2x3x4"], "D H W"),
        (["unet", "--size", "ten"], "ten"),
        (["unet", "--size"], "requires an argument"),
        (["unet", "--classes", "0"], "0"),
        (["unet", "extra"], "extra"),
    ],
)
def test_bad_input_is_said_in_words(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["models", "inspect", *arguments]) == 2
    found = capsys.readouterr()
    assert found.out == ""
    assert words in found.err
    assert "Traceback" not in found.err


@pytest.mark.parametrize("command", [["models"], ["models", "inspect"]])
def test_help_shows_an_example(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command, "--help"]) == 0
    assert "maskloop models inspect" in capsys.readouterr().out
