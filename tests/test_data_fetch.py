"""Fetch: the folder in STRUCTWM_DATA, the cache, a download from a local server, and each refusal."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from structwm.data import BadData, DataUnavailable, fetch
from structwm.data.registry import DataSource, data_names, data_source

CONTENT = {"a.txt": b"first", "deep/b.bin": b"\x00\x01second"}


class Quiet(SimpleHTTPRequestHandler):
    asked: list[str] = []

    def log_message(self, format: str, *args: object) -> None:
        self.asked.append(self.path)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DataSource]:
    """A set of two files behind a server on this machine, with STRUCTWM_DATA unset."""
    monkeypatch.delenv("STRUCTWM_DATA", raising=False)
    monkeypatch.setattr(Quiet, "asked", [])
    upstream = tmp_path / "upstream"
    for name, content in CONTENT.items():
        (upstream / name).parent.mkdir(parents=True, exist_ok=True)
        (upstream / name).write_bytes(content)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(upstream))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        files = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()}
        yield DataSource("toy", "A toy", "upstream", "0" * 40, "CC0", "none", f"http://127.0.0.1:{server.server_port}/", files)
        server.shutdown()


def test_download_check_and_keep(source: DataSource, tmp_path: Path) -> None:
    folder = fetch(source, cache=tmp_path / "cache")
    assert folder == tmp_path / "cache" / "toy"
    assert {name: (folder / name).read_bytes() for name in CONTENT} == CONTENT
    assert Quiet.asked == ["/a.txt", "/deep/b.bin"]
    fetch(source, cache=tmp_path / "cache")
    assert len(Quiet.asked) == 2
    (folder / "a.txt").write_bytes(b"damaged")
    fetch(source, cache=tmp_path / "cache")
    assert (folder / "a.txt").read_bytes() == b"first" and Quiet.asked[2:] == ["/a.txt"]


def test_another_checksum_is_refused(source: DataSource, tmp_path: Path) -> None:
    wrong = replace(source, files={**source.files, "deep/b.bin": "0" * 64})
    with pytest.raises(BadData, match=r"http://127.0.0.1:\d+/deep/b.bin, the whole file, field sha256: expected 0000.*run `structwm fetch toy` again"):
        fetch(wrong, cache=tmp_path / "cache")
    assert sorted(path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()) == ["a.txt"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/", "{url}absent/"])
def test_unreachable_source_says_what_to_run(source: DataSource, tmp_path: Path, url: str) -> None:
    with pytest.raises(DataUnavailable, match=r"with a network run `structwm fetch toy`, or set STRUCTWM_DATA to a folder that contains toy/") as caught:
        fetch(replace(source, url=url.format(url=source.url)), cache=tmp_path / "cache")
    assert str(caught.value).count("\n") == 0


def test_the_folder_in_the_environment_comes_first(source: DataSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRUCTWM_DATA", str(tmp_path))
    (tmp_path / "upstream").rename(tmp_path / "toy")
    assert fetch(source) == tmp_path / "toy" and not Quiet.asked
    (tmp_path / "toy" / "a.txt").unlink()
    with pytest.raises(DataUnavailable, match="expected a.txt in .*toy .STRUCTWM_DATA., found none"):
        fetch(source)


def test_a_file_with_an_address_of_its_own(source: DataSource, tmp_path: Path) -> None:
    """It comes from there, and lies where the set says."""
    moved = replace(source, files={"a.txt": source.files["a.txt"], "b.bin": source.files["deep/b.bin"]}, addresses={"b.bin": f"{source.url}deep/b.bin"})
    folder = fetch(moved, cache=tmp_path / "cache")
    assert (folder / "b.bin").read_bytes() == CONTENT["deep/b.bin"] and Quiet.asked == ["/a.txt", "/deep/b.bin"]
    lost = replace(moved, addresses={"b.bin": f"{source.url}elsewhere"})
    (folder / "b.bin").unlink()
    with pytest.raises(DataUnavailable, match=r"http://127.0.0.1:\d+/elsewhere cannot be reached"):
        fetch(lost, cache=tmp_path / "cache")


def test_a_file_to_get_by_hand(source: DataSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All others are downloaded, then the error says how to get it; once it is there, and the right one, it counts."""
    lacking = replace(source, by_hand={"a.txt": "ask for it"})
    with pytest.raises(DataUnavailable, match=r"expected a.txt of toy in .*, found none, and it cannot be downloaded: ask for it\.$"):
        fetch(lacking, cache=tmp_path / "cache")
    folder = tmp_path / "cache" / "toy"
    assert (folder / "deep" / "b.bin").is_file() and Quiet.asked == ["/deep/b.bin"]
    (folder / "a.txt").write_bytes(b"wrong")
    with pytest.raises(DataUnavailable, match="found another file, and it cannot be downloaded"):
        fetch(lacking, cache=tmp_path / "cache")
    (folder / "a.txt").write_bytes(CONTENT["a.txt"])
    assert fetch(lacking, cache=tmp_path / "cache") == folder and Quiet.asked == ["/deep/b.bin"]
    monkeypatch.setenv("STRUCTWM_DATA", str(tmp_path / "cache"))
    (folder / "a.txt").unlink()
    with pytest.raises(DataUnavailable, match=r"expected a.txt in .*STRUCTWM_DATA., found none; ask for it\.$"):
        fetch(lacking)


def test_addresses_are_of_the_sets_files(source: DataSource) -> None:
    for odd in ({"addresses": {"c.txt": source.url}}, {"by_hand": {"c.txt": "ask"}}, {"addresses": {"c.txt": source.url}, "by_hand": {"c.txt": "ask"}}):
        with pytest.raises(ValueError, match="to name files of it, no file in both, got 'c.txt'"):
            replace(source, **odd)


@pytest.mark.parametrize("name", data_names())
def test_every_file_has_an_address_of_a_pinned_commit(name: str) -> None:
    entry = data_source(name)
    assert entry.commit in entry.url and all(re.search("/[0-9a-f]{40}/", address) for address in entry.addresses.values())
    assert all(how and not how.endswith(".") for how in entry.by_hand.values())


def test_registry() -> None:
    assert "mit_push" in data_names()
    entry = data_source("mit_push")
    assert entry.name == "mit_push" and len(entry.files) == 32 and entry.licence == "Apache-2.0"
    assert entry.commit in entry.url and re.fullmatch("[0-9a-f]{40}", entry.commit)
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in entry.files.values())
    with pytest.raises(ValueError, match="expected one of the data sets .*mit_push.*got 'mit_pull'"):
        fetch("mit_pull")


def test_importing_and_reading_need_no_torch() -> None:
    names = "import sys, structwm.data as d; [getattr(d, n) for n in d.__all__]; from structwm.training import Checkpoint, RunFolder"
    code = f"{names}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


def test_public_names_are_what_they_say() -> None:
    import structwm.data.download
    from structwm.data import fetch as again

    assert again is structwm.data.download.fetch
    with pytest.raises(AttributeError, match="no attribute 'feetch'"):
        structwm.data.feetch
