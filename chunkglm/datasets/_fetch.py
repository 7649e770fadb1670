"""The real FIAC: downloaded once, checked, and unpacked without trusting the archive."""

import gzip
import logging
import os
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import numpy as np

from chunkglm.datasets._layout import (
    DESIGNS,
    DOWNLOAD_RECORD,
    FIAC_FOLDER,
    FILES,
    SIMULATION_RECORD,
    FiacData,
    fiac_data,
    file_hashes,
    is_intact,
    read_json,
    sha256,
    write_json,
)
from chunkglm.errors import DownloadError
from chunkglm.io.images import atomic_writer

FIAC_URL = "https://nipy.org/data-packages/nipy-data-0.2.tar.gz"


def fetch_fiac(
    folder: str | os.PathLike[str],
    *,
    url: str | None = None,
    known_hash: str | None = None,
    progress: bool = True,
) -> FiacData:
    """Download the FIAC data of the nipy data package, once.

    Parameters
    ----------
    folder : str or os.PathLike
        Made where missing. Holds the archive, and the files of the subject in
        ``nipy-data-0.2/data/fiac/fiac0``. An archive put there by hand is used.
    url : str, optional
        Another place to get ``nipy-data-0.2.tar.gz`` from.
    known_hash : str, optional
        SHA-256 the archive must have. Left out, the first download is trusted: its SHA-256 is
        kept in a ``.sha256`` file beside the archive, and any later one must be the same.
    progress : bool, default True
        Show a bar on stderr.

    Returns
    -------
    FiacData
        Two runs of (64, 64, 30, 191) int16, repetition time 2.5 s. `activation` is None.

    Raises
    ------
    DownloadError
        If the archive cannot be had, is not the one expected, or is not safe to unpack. A
        transfer that broke off goes on from there with the next call.
    """
    root = Path(folder)
    home = root / FIAC_FOLDER
    source = FIAC_URL if url is None else url
    name = PurePosixPath(urlsplit(source).path).name
    archive = root / (name if name not in ("", "..") else "fiac.tar.gz")
    if (home / SIMULATION_RECORD).exists():
        raise DownloadError(f"{home}: holds a simulation; give another folder for the real data")
    pin = archive.with_name(archive.name + ".sha256")
    expected = _without_prefix(known_hash) if known_hash else _pinned(pin)
    record = read_json(home / DOWNLOAD_RECORD)
    if not _is_done(home, record, archive, expected):
        root.mkdir(parents=True, exist_ok=True)
        _retrieve(
            source, archive, expected, pin, pinned_by_caller=bool(known_hash), progress=progress
        )
        _unpack(archive, home)
        digest = sha256(archive)
        with atomic_writer(pin) as file:
            file.write(f"{digest}  {archive.name}\n".encode())
        hashes = file_hashes(home, FILES)
        write_json(home / DOWNLOAD_RECORD, {"url": source, "archive": digest, "sha256": hashes})
    return fiac_data(home, simulated=False)


def _without_prefix(known_hash: str) -> str:
    digest = known_hash.removeprefix("sha256:").lower()
    if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise DownloadError(
            f"known_hash must be a SHA-256 of 64 hex digits, but got {known_hash!r}"
        )
    return digest


def _pinned(pin: Path) -> str | None:
    """Read the hash of the first download, in the form `sha256sum --check` reads."""
    try:
        words = pin.read_text().split()
    except FileNotFoundError:
        return None
    try:
        return _without_prefix(words[0])
    except (IndexError, DownloadError):
        raise DownloadError(
            f"{pin}: holds no SHA-256; delete it to trust the next download"
        ) from None


def _is_done(home: Path, record: dict[str, object], archive: Path, expected: str | None) -> bool:
    """Say whether the files are there, unchanged, and from the archive that is expected."""
    if expected is None or record.get("archive") != expected:
        return False
    if archive.exists() and sha256(archive) != expected:
        return False
    return is_intact(home, record, FILES)


def _retrieve(
    url: str,
    archive: Path,
    expected: str | None,
    pin: Path,
    *,
    pinned_by_caller: bool,
    progress: bool,
) -> None:
    import pooch

    from chunkglm.datasets._download import ResumableDownloader

    advice = (
        f"download it by hand to {archive.resolve()},"
        " or use simulate_fiac for data of the same form"
    )
    downloader = ResumableDownloader(
        archive.with_name(archive.name + ".part"), progress=progress, advice=advice
    )
    try:
        with _quiet(pooch.get_logger()):
            pooch.retrieve(
                url,
                known_hash=expected,
                fname=archive.name,
                path=archive.parent,
                downloader=downloader,
            )
    except ValueError as error:
        # pooch's only ValueError here: the hash is another one. Its message holds both.
        facts = str(error).partition(". Deleted download")[0]
        remedy = (
            "check known_hash"
            if pinned_by_caller
            else f"it changed since the first download; if that is right, delete {pin}"
        )
        raise DownloadError(f"{url}: {facts}; {remedy}") from error


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """Keep pooch from advising on its own arguments, which the user has no hand on."""
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _unpack(archive: Path, home: Path) -> None:
    """Take the subject's files out of the archive, and nothing else.

    Members are read and written under names of our own, never by the archive's: no link,
    absolute name or ``..`` in it can reach a file outside.
    """
    wanted = {str(PurePosixPath(*FIAC_FOLDER.parts, name)): name for name in FILES}
    # Beside the goal first: a refused archive leaves nothing of itself behind.
    with tempfile.TemporaryDirectory(dir=archive.parent, prefix=".unpack-") as temporary:
        try:
            with gzip.open(archive) as stream:
                with tarfile.open(fileobj=stream, mode="r:") as tar:
                    for member in tar:
                        path = _safe_name(archive, member)
                        if path in wanted:
                            _take(archive, tar, member, Path(temporary, wanted.pop(path)))
                # To the end: gzip checks its sum only there.
                while stream.read(2**20):
                    pass
        except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DownloadError(
                f"{archive}: is damaged ({error}); delete it and call again"
            ) from error
        if wanted:
            missing = ", ".join(wanted)
            raise DownloadError(f"{archive}: is not the nipy data package, it lacks {missing}")
        for name in DESIGNS:
            _check_design(Path(temporary, name))
        home.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            Path(temporary, name).replace(home / name)


def _safe_name(archive: Path, member: tarfile.TarInfo) -> str:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or "\\" in member.name:
        raise DownloadError(f"{archive}: refused, its member {member.name!r} leaves the folder")
    return str(path)


def _take(archive: Path, tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    source = tar.extractfile(member) if member.isreg() else None
    if source is None:
        raise DownloadError(f"{archive}: refused, its member {member.name!r} is not a plain file")
    with source, atomic_writer(target) as file:
        shutil.copyfileobj(source, file, 2**20)


def _check_design(path: Path) -> None:
    """Refuse a design that could only be read by running code from it."""
    try:
        with np.load(path, allow_pickle=False) as design:
            shapes = design["X"].shape, design["conditions"].shape
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DownloadError(
            f"{path}: is not a plain archive of X and conditions: {error}"
        ) from error
    if len(shapes[0]) != 2 or shapes[1] != shapes[0][1:]:
        raise DownloadError(
            f"{path}: X {shapes[0]} and conditions {shapes[1]} do not belong together"
        )
