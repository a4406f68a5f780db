"""Finds a data set on this machine, or downloads it from its pinned source and checks every file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from structwm.data.errors import BadData, DataUnavailable
from structwm.data.registry import DataSource, data_source


def fetch(name: str | DataSource, *, cache: Path | None = None) -> Path:
    """The folder of a data set: `$STRUCTWM_DATA/NAME` if it exists, else `NAME` in the cache, where missing files are downloaded.

    Every file in the cache is checked against its sha256. An interrupted download continues where it stopped. Of a file that has no address the error says how
    to get it, once all others are there.

    Args:
        name: a name in `structwm.data.registry.data_names()`, or an entry of one's own.
        cache: folder for downloads, the user's cache folder if not given.

    Raises:
        DataUnavailable: if a file is missing and cannot be downloaded; it says which command to run.
        BadData: if a downloaded file is not the one that was pinned.
    """
    source = name if isinstance(name, DataSource) else data_source(name)
    root = os.environ.get("STRUCTWM_DATA")
    if root and (folder := Path(root) / source.name).is_dir():
        for file in source.files:
            if not (folder / file).is_file():
                advice = source.by_hand.get(file, f"add it, or unset STRUCTWM_DATA and run `structwm fetch {source.name}`")
                raise DataUnavailable(f"expected {file} in {folder} (STRUCTWM_DATA), found none; {advice}.")
        return folder
    return _download(source, cache)


def _download(source: DataSource, cache: Path | None) -> Path:
    import pooch  # type: ignore[import-untyped]

    folder = Path(cache or pooch.os_cache("structwm")) / source.name
    known = {file: f"sha256:{digest}" for file, digest in source.files.items()}
    shelf = pooch.create(path=folder, base_url=source.url.rstrip("/") + "/", registry=known, urls=dict(source.addresses), retry_if_failed=1)
    wanting = [file for file in source.files if not (folder / file).is_file() or not pooch.hashes.hash_matches(str(folder / file), known[file])]
    by_hand, wanting = [file for file in wanting if file in source.by_hand], [file for file in wanting if file not in source.by_hand]
    if wanting:
        _download_each(shelf, source, wanting, folder)
    if by_hand:
        found = "another file" if (folder / by_hand[0]).exists() else "none"
        raise DataUnavailable(f"expected {by_hand[0]} of {source.name} in {folder}, found {found}, and it cannot be downloaded: {source.by_hand[by_hand[0]]}.")
    return folder


def _download_each(shelf: Any, source: DataSource, wanting: list[str], folder: Path) -> None:
    import pooch
    import requests

    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel("ERROR")  # the bar says what pooch would log
    try:
        with Progress(console=Console(stderr=True), transient=True) as progress:
            for file in progress.track(wanting, description=f"downloading {source.name}"):
                shelf.fetch(file, downloader=pooch.HTTPDownloader(timeout=30))
    except requests.exceptions.RequestException as error:
        raise DataUnavailable(
            f"expected {source.name} under STRUCTWM_DATA or in {folder}, and {shelf.get_url(file)} cannot be reached ({type(error).__name__}); "
            f"with a network run `structwm fetch {source.name}`, or set STRUCTWM_DATA to a folder that contains {source.name}/."
        ) from error
    except ValueError as error:
        advice = f"run `structwm fetch {source.name}` again, and if it happens again report it: the upstream file changed"
        raise BadData.at(
            file=shelf.get_url(file), record="the whole file", field="sha256", expected=source.files[file], got="another checksum", advice=advice
        ) from error
    finally:
        logger.setLevel(level)
