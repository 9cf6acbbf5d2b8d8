"""The store: nothing is used that is not what the card pins, and nothing fetched is ever run."""

from __future__ import annotations

import hashlib
import http.server
import io
import os
import pickle
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from maskloop.core.errors import Cancelled, StorageError, WeightsError
from maskloop.core.job import Job
from maskloop.models import cards, weights
from maskloop.models.cards import ModelCard, WeightFile

CONTENT = b"0123456789" * 1000


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def card_of(source: dict[str, object], content: bytes = CONTENT, **told: object) -> ModelCard:
    weight = WeightFile(
        "w.bin", str(told.get("sha256", sha(content))), int(str(told.get("size", 0))), source
    )
    return ModelCard(name="m", title="m", family="unet", weights=(weight,))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "www"
    folder.mkdir()
    (folder / "w.bin").write_bytes(CONTENT)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object, **told: object) -> None:
            super().__init__(*args, directory=str(folder), **told)  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            if self.path == "/short.bin":  # promises more than it sends
                self.send_response(200)
                self.send_header("Content-Length", str(len(CONTENT)))
                self.end_headers()
                self.wfile.write(CONTENT[:100])
                return
            super().do_GET()

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


def store_is_empty() -> bool:
    folder = weights.weights_folder()
    return not folder.exists() or not any(p.is_file() for p in folder.rglob("*"))


def test_store_lies_in_the_home_that_is_set(home: Path) -> None:
    assert weights.weights_folder() == home / "weights"


def test_a_url_is_fetched_once_and_checked(server: str) -> None:
    card = card_of({"url": f"{server}/w.bin"}, size=len(CONTENT))
    assert not weights.present(card)
    seen = []
    found = weights.fetch(card, Job(seen.append))
    assert found["w.bin"].read_bytes() == CONTENT
    assert weights.present(card)
    assert seen[-1].done == seen[-1].total == len(CONTENT)
    stamp = found["w.bin"].stat().st_mtime_ns
    assert weights.fetch(card)["w.bin"].stat().st_mtime_ns == stamp
    assert [p.name for p in weights.weights_folder().iterdir()] == ["m"]


def test_a_publishers_short_hash_is_enough(server: str) -> None:
    card = card_of({"url": f"{server}/w.bin"}, sha256=sha(CONTENT)[:8])
    assert weights.fetch(card)["w.bin"].is_file()


def test_other_content_than_pinned_is_refused_and_not_kept(server: str) -> None:
    card = card_of({"url": f"{server}/w.bin"}, b"what the card pins")
    with pytest.raises(WeightsError, match=r"expected w.bin.*got .*not used"):
        weights.fetch(card)
    assert store_is_empty()


@pytest.mark.parametrize("path", ["short.bin", "nothing.bin"])
def test_a_download_that_fails_names_url_and_target_and_leaves_nothing(
    server: str, path: str
) -> None:
    card = card_of({"url": f"{server}/{path}"})
    with pytest.raises(WeightsError) as caught:
        weights.fetch(card)
    assert f"{server}/{path}" in str(caught.value)
    assert str(weights.location(card, card.weights[0])) in str(caught.value)
    assert "--from FILE" in str(caught.value)
    assert store_is_empty()


def test_a_cancelled_download_leaves_nothing(server: str) -> None:
    job = Job()
    job.cancel()
    with pytest.raises(Cancelled):
        weights.fetch(card_of({"url": f"{server}/w.bin"}), job)
    assert store_is_empty()


def test_offline_forbids_the_download_and_says_what_to_bring(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASKLOOP_OFFLINE", "1")
    card = card_of({"url": f"{server}/w.bin"})
    with pytest.raises(WeightsError) as caught:
        weights.fetch(card)
    for part in (f"{server}/w.bin", str(weights.location(card, card.weights[0])), sha(CONTENT)):
        assert part in str(caught.value)
    assert store_is_empty()


def test_torchvision_weights_offline_name_the_published_url(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MASKLOOP_OFFLINE", "1")
    card = cards.find_card("lraspp-mobilenet-voc")
    with pytest.raises(WeightsError) as caught:
        weights.fetch(card)
    assert "https://download.pytorch.org/models/lraspp_mobilenet" in str(caught.value)
    assert "maskloop weights fetch lraspp-mobilenet-voc --from FILE" in str(caught.value)


@pytest.mark.parametrize("is_folder", [False, True])
def test_a_local_file_or_folder_serves_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_folder: bool
) -> None:
    monkeypatch.setenv("MASKLOOP_OFFLINE", "1")
    card = card_of({"url": "https://example.invalid/w.bin"})
    (tmp_path / "w.bin").write_bytes(CONTENT)
    found = weights.fetch(card, source=tmp_path if is_folder else tmp_path / "w.bin")
    assert found["w.bin"].read_bytes() == CONTENT
    assert (tmp_path / "w.bin").read_bytes() == CONTENT


def test_a_wrong_local_file_is_refused(tmp_path: Path) -> None:
    card = card_of({"url": "https://example.invalid/w.bin"})
    (tmp_path / "x").write_bytes(b"something else")
    with pytest.raises(WeightsError, match="sha256"):
        weights.fetch(card, source=tmp_path / "x")
    with pytest.raises(WeightsError, match="does not exist"):
        weights.fetch(card, source=tmp_path / "y")
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match="none of them"):
        weights.fetch(card, source=tmp_path / "empty")
    assert store_is_empty()


def test_a_file_changed_after_fetching_is_caught_at_load(server: str) -> None:
    card = card_of({"url": f"{server}/w.bin"})
    path = weights.fetch(card)["w.bin"]
    path.write_bytes(CONTENT[:-1] + b"X")
    with pytest.raises(WeightsError, match="sha256"):
        weights.paths(card)
    (state,) = weights.verify(card)
    assert state.state not in ("present", "absent")
    assert weights.fetch(card)["w.bin"].read_bytes() == CONTENT


def test_a_truncated_file_is_absent_by_size_and_wrong_by_hash(server: str) -> None:
    card = card_of({"url": f"{server}/w.bin"}, size=len(CONTENT))
    path = weights.fetch(card)["w.bin"]
    path.write_bytes(CONTENT[:50])
    assert not weights.present(card)
    with pytest.raises(WeightsError, match="50 bytes, expected 10000"):
        weights.paths(card)


def test_a_checked_file_is_not_hashed_again_until_it_changes(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = card_of({"url": f"{server}/w.bin"})
    path = weights.fetch(card)["w.bin"]
    hashed = []
    plain = weights.sha256_of
    monkeypatch.setattr(weights, "sha256_of", lambda p: hashed.append(p) or plain(p))
    weights.paths(card)
    assert hashed == []
    os.utime(path, ns=(0, 0))
    weights.paths(card)
    assert hashed == [path]


def test_absent_weights_say_how_to_get_them() -> None:
    with pytest.raises(WeightsError, match="maskloop weights fetch m"):
        weights.paths(card_of({"url": "https://example.invalid/w.bin"}))


@pytest.mark.parametrize("source", [{"package": "../x"}, {"file": "a/../../x"}, {"package": "/x"}])
def test_a_card_cannot_point_outside_its_folder(source: dict[str, object]) -> None:
    with pytest.raises(WeightsError, match="inside"):
        weights.paths(card_of(source))


def test_a_full_disk_is_said_and_nothing_is_left(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights, "_download", full)
    with pytest.raises(StorageError, match="No space left"):
        weights.fetch(card_of({"url": f"{server}/w.bin"}))
    assert store_is_empty()


def make_wheel(folder: Path, members: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tinyweights-1.0-py3-none-any.whl"
    told = {
        "tinyweights-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: tinyweights\n"
        b"Version: 1.0\nRequires-Python: <3.7\n",
        "tinyweights-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\n"
        b"Tag: py3-none-any\n",
    }
    with zipfile.ZipFile(path, "w") as out:
        for name, content in {**members, **told}.items():
            out.writestr(name, content)
        out.writestr("tinyweights-1.0.dist-info/RECORD", "")
    return path


def wheel_card(member: str = "tiny/w.bin", content: bytes = CONTENT) -> ModelCard:
    source = {
        "wheel": {
            "requirement": "tinyweights==1.0",
            "python": "3.6",
            "member": member,
            "sha256": sha(content),
        }
    }
    return card_of(source)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "index"
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_a_wheel_comes_through_the_users_own_pip_and_is_never_run(
    index: Path, tmp_path: Path
) -> None:
    trap = tmp_path / "ran"
    code = f"open({str(trap)!r}, 'w')".encode()
    make_wheel(index, {"tiny/w.bin": CONTENT, "tiny/__init__.py": code, "setup.py": code})
    found = weights.fetch(wheel_card())
    assert found["w.bin"].read_bytes() == CONTENT
    assert not trap.exists()
    assert sorted(p.name for p in weights.weights_folder().rglob("*")) == ["m", "w.bin"]


def test_a_wheel_pip_cannot_find_is_said_in_pips_words(index: Path) -> None:
    index.mkdir()
    with pytest.raises(WeightsError, match=r"tinyweights==1.0.*--from FILE"):
        weights.fetch(wheel_card())
    assert store_is_empty()


def test_a_local_wheel_or_member_serves_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASKLOOP_OFFLINE", "1")
    with pytest.raises(WeightsError, match=r"tinyweights==1.0"):
        weights.fetch(wheel_card())
    wheel = make_wheel(tmp_path, {"tiny/w.bin": CONTENT})
    for source in (wheel, tmp_path):
        found = weights.fetch(wheel_card(), source=source)["w.bin"]
        assert found.read_bytes() == CONTENT
        found.unlink()
    member = tmp_path / "w.bin"
    member.write_bytes(CONTENT)
    assert weights.fetch(wheel_card(), source=member)["w.bin"].read_bytes() == CONTENT


@pytest.mark.parametrize("member", ["../evil.bin", "/etc/evil", "tiny/../../evil", "..\\evil"])
def test_a_member_that_leaves_the_wheel_is_refused(tmp_path: Path, member: str) -> None:
    wheel = make_wheel(tmp_path / "in", {member: CONTENT})
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(WeightsError, match="inside"):
        weights.fetch(wheel_card(member), source=wheel)
    assert sorted(tmp_path.rglob("*")) == before
    assert store_is_empty()


def test_a_wheel_with_another_member_or_none_is_refused(tmp_path: Path) -> None:
    other = make_wheel(tmp_path / "a", {"tiny/w.bin": b"other"})
    without = make_wheel(tmp_path / "b", {"tiny/v.bin": CONTENT})
    cut = tmp_path / "cut.whl"
    cut.write_bytes(other.read_bytes()[:-40])
    for wheel in (other, without, cut):
        with pytest.raises(WeightsError):
            weights.fetch(wheel_card(), source=wheel)
    assert store_is_empty()


def test_a_member_larger_than_told_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, {"tiny/w.bin": CONTENT})
    card = wheel_card()
    card.weights[0].source["wheel"]["size"] = 100
    with pytest.raises(WeightsError, match="at most 100 bytes"):
        weights.fetch(card, source=wheel)


def test_a_convert_hook_makes_what_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hookmodule.py").write_text(
        "def upper(source, target):\n    target.write_bytes(source.read_bytes().upper())\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    wheel = make_wheel(tmp_path / "in", {"tiny/w.bin": b"abc"})
    card = wheel_card(content=b"abc")
    source = {**card.weights[0].source, "convert": "hookmodule:upper"}
    card = card_of(source, b"ABC")
    assert weights.fetch(card, source=wheel)["w.bin"].read_bytes() == b"ABC"
    sys.modules.pop("hookmodule")


class Hostile:
    """What an attacker pickles: opening the file would create another."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (open, (str(self.path), "w"))


def test_a_hostile_checkpoint_is_refused_and_nothing_runs(tmp_path: Path) -> None:
    import torch

    from maskloop.models.base import read_state

    trap = tmp_path / "ran"
    torch.save({"weight": Hostile(trap)}, tmp_path / "hostile.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Hostile(trap)))
    for name in ("hostile.pth", "plain.pth"):
        with pytest.raises(WeightsError, match="nothing in it was run"):
            read_state(tmp_path / name)
    assert not trap.exists()


def test_what_is_no_checkpoint_is_said_to_be_none_without_torchs_advice(tmp_path: Path) -> None:
    from maskloop.models.base import read_state

    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64))
    with pytest.raises(WeightsError, match="it is no checkpoint") as refusal:
        read_state(tmp_path / "picture.png")
    assert "weights_only" not in str(refusal.value)


def test_a_whole_pickled_module_is_refused(tmp_path: Path) -> None:
    import torch

    from maskloop.models.base import read_state

    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pth")
    with pytest.raises(WeightsError, match=r"asks to run.*Linear"):
        read_state(tmp_path / "module.pth")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_damaged_weights_are_refused(tmp_path: Path, suffix: str) -> None:
    import torch

    from maskloop.models.base import read_state, write_state

    network = torch.nn.Linear(30, 30)
    whole = tmp_path / f"whole{suffix}"
    if suffix == ".pth":
        torch.save(network.state_dict(), whole)
    else:
        write_state(network, whole)
    assert set(read_state(whole)) == {"weight", "bias"}
    for content in (whole.read_bytes()[:-200], b"", b"\xff" * 64, b"<html>not found</html>"):
        damaged = tmp_path / f"damaged{suffix}"
        damaged.write_bytes(content)
        with pytest.raises(WeightsError, match=r"expected .*; "):
            read_state(damaged)


def test_equal_networks_write_equal_files(tmp_path: Path) -> None:
    import torch

    from maskloop.models.base import write_state

    for name in ("a", "b"):
        torch.manual_seed(1)
        write_state(torch.nn.Linear(3, 3), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_strict_loading_shows_the_difference(tmp_path: Path) -> None:
    import torch

    from maskloop.models.base import load_strict, write_state

    path = tmp_path / "w.safetensors"
    write_state(torch.nn.Sequential(torch.nn.Linear(2, 3, bias=False), torch.nn.Linear(3, 3)), path)
    other = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Flatten())
    before = {k: v.clone() for k, v in other.state_dict().items()}
    with pytest.raises(WeightsError) as caught:
        load_strict(other, {"w": path}, name="m")
    text = str(caught.value)
    assert "missing     0.bias" in text
    assert "unexpected  1.weight" in text
    assert "0.weight: expected (4, 2), got (3, 2)" in text
    assert all(torch.equal(v, before[k]) for k, v in other.state_dict().items())


def test_checkpoint_with_its_table_one_level_down_is_read(tmp_path: Path) -> None:
    import torch

    from maskloop.models.base import read_state

    torch.save({"state_dict": {"a": torch.ones(2)}, "epoch": 3}, tmp_path / "c.pth")
    assert list(read_state(tmp_path / "c.pth")) == ["a"]
    torch.save({"epoch": 3}, tmp_path / "d.pth")
    with pytest.raises(WeightsError, match="table of tensors"):
        read_state(tmp_path / "d.pth")


def test_cards_and_store_import_without_torch() -> None:
    import subprocess

    code = (
        "import sys; from maskloop.models import cards, weights, FAMILIES; cards.all_cards(); "
        "list(FAMILIES); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_unpickling_helper_is_really_hostile(tmp_path: Path) -> None:
    trap = tmp_path / "ran"
    pickle.load(io.BytesIO(pickle.dumps(Hostile(trap)))).close()
    assert trap.exists()
