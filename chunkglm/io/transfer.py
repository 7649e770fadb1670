"""Small files put behind a URL, and fetched from there."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import unquote, urlsplit

from chunkglm.errors import ChunkglmError
from chunkglm.io.files import file_system, reaching


def put_files(
    files: Iterable[Path], url: str, options: Mapping[str, Any], kind: type[ChunkglmError]
) -> list[str]:
    """Put whole files behind a URL.

    Parameters
    ----------
    files : iterable of Path
    url : str
        Of their folder.
    options : mapping
        Passed to fsspec.
    kind : type
        Of the error raised, naming the URL of the file, when one cannot be written.

    Returns
    -------
    list of str
        Their URLs.
    """
    written = []
    for file in files:
        target = f"{url.rstrip('/')}/{file.name}"
        with reaching(target, kind):
            found, inside = file_system(target, options)
            found.put_file(str(file), inside)
        written.append(target)
    return written


def remove_files(
    names: Iterable[str], url: str, options: Mapping[str, Any], kind: type[ChunkglmError]
) -> None:
    """Remove files behind a URL, those that are there.

    Parameters
    ----------
    names : iterable of str
    url : str
        Of their folder.
    options : mapping
        Passed to fsspec.
    kind : type
        Of the error raised, naming the URL of the file, when one cannot be removed.
    """
    for name in names:
        target = f"{url.rstrip('/')}/{name}"
        with reaching(target, kind):
            found, inside = file_system(target, options)
            if found.exists(inside):
                found.rm_file(inside)


@contextmanager
def fetched(
    names: Iterable[str], url: str, options: Mapping[str, Any], kind: type[ChunkglmError]
) -> Iterator[Path]:
    """Fetch small files to a folder that is gone after the block.

    Parameters
    ----------
    names : iterable of str
    url : str
        Of their folder.
    options : mapping
        Passed to fsspec.
    kind : type
        Of the error raised, naming the URL of the file, when one cannot be read.

    Yields
    ------
    Path
        The folder.
    """
    with TemporaryDirectory(prefix="chunkglm-") as folder:
        for name in names:
            source = f"{url.rstrip('/')}/{name}"
            with reaching(source, kind):
                found, inside = file_system(source, options)
                found.get_file(inside, str(Path(folder) / name))
        yield Path(folder)


@contextmanager
def fetched_file(url: str, options: Mapping[str, Any], kind: type[ChunkglmError]) -> Iterator[Path]:
    """Fetch one small file, under its name and without what a query adds to it.

    Parameters
    ----------
    url : str
    options : mapping
        Passed to fsspec.
    kind : type
        Of the error raised, naming the URL, when it cannot be read.

    Yields
    ------
    Path
        Of the copy, gone after the block.
    """
    name = unquote(urlsplit(url).path.rstrip("/").rpartition("/")[2]) or "file"
    with TemporaryDirectory(prefix="chunkglm-") as folder:
        copy = Path(folder) / name
        with reaching(url, kind):
            found, inside = file_system(url, options)
            found.get_file(inside, str(copy))
        if not copy.is_file():
            msg = f"{url}: is a folder, not a file; pass the file inside it"
            raise kind(msg)
        yield copy
