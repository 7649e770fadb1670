"""A downloader for pooch that goes on where a broken transfer stopped."""

import re
import shutil
from pathlib import Path
from typing import Any

import requests
import tqdm
import urllib3

from chunkglm.datasets._layout import read_json, write_json
from chunkglm.errors import DownloadError

# A transfer that breaks is taken up again this often before the user is told.
_ATTEMPTS = 3
_TIMEOUT = (15.0, 60.0)  # s: to connect, and between two pieces of data
_PIECE = 2**18  # bytes


class _BrokenTransferError(Exception):
    """The transfer stopped, and may be taken up again."""


class ResumableDownloader:
    """Download to a ``.part`` file that outlives the process, then move it into place.

    The ``.part`` file is gone on with only when it is sure to be the same file: its record
    holds the URL, the size, and the server's validator (ETag or date), which goes back to the
    server as ``If-Range``. A server that ignores the range, or has another file by now, sends
    all of it, and the download starts again.

    Parameters
    ----------
    part : Path
        Where the bytes are gathered.
    progress : bool
        Show a bar on stderr.
    advice : str
        What to do when the server cannot be reached; the end of the error message.
    """

    def __init__(self, part: Path, *, progress: bool, advice: str) -> None:
        self.part = part
        self.record = part.with_name(part.name + ".json")
        self.progress = progress
        self.advice = advice

    def __call__(self, url: str, output_file: str, pooch: Any, check_only: bool = False) -> None:
        """Download `url` to `output_file`; the signature is pooch's."""
        try:
            self._download(url)
        except requests.RequestException as error:
            status = error.response.status_code if error.response is not None else None
            cause = f"the server answered {status}" if status else "it could not be reached"
            raise DownloadError(f"{url}: {cause}; {self.advice}") from error
        self.part.replace(output_file)
        self.record.unlink(missing_ok=True)

    def _download(self, url: str) -> None:
        reason = ""
        for _ in range(_ATTEMPTS):
            try:
                self._transfer(url)
            except _BrokenTransferError as error:
                reason = str(error)
            else:
                return
        raise DownloadError(f"{url}: {reason}; call again to go on from there, or {self.advice}")

    def _transfer(self, url: str) -> None:
        """Get what is missing, in one request."""
        record = read_json(self.record)
        start = self.part.stat().st_size if self.part.exists() and record.get("url") == url else 0
        if start and start == record.get("total"):
            return  # whole, but the process ended before it was moved into place
        # Identity: the size and the ranges are those of the file, not of a coding of it.
        headers = {"Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
            if record.get("validator"):
                headers["If-Range"] = record["validator"]
        with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
            if response.status_code == 416:
                self._start_again("the server has no such range")
            response.raise_for_status()
            total = _total_size(response)
            if response.status_code == 206:
                if _range_start(response) != start or total is None or total != record.get("total"):
                    self._start_again("the server sent another range, or has another file")
            else:
                start = 0
                # Without a size nothing could tell a whole file from a part: no record, no resume.
                self._forget()
                if total is not None:
                    validator = _validator(response)
                    write_json(self.record, {"url": url, "total": total, "validator": validator})
            self._need_space(url, (total or 0) - start)
            self._receive(url, response, start, total)

    def _receive(
        self, url: str, response: requests.Response, start: int, total: int | None
    ) -> None:
        bar = tqdm.tqdm(
            total=total,
            initial=start,
            unit="B",
            unit_scale=True,
            desc=self.part.stem,
            disable=not self.progress,
        )
        size = start
        broken: Exception | None = None
        with bar, self.part.open("ab" if start else "wb") as file:
            try:
                for piece in response.raw.stream(_PIECE, decode_content=False):
                    file.write(piece)
                    size += len(piece)
                    bar.update(len(piece))
            except urllib3.exceptions.HTTPError as error:
                broken = error
            except OSError as error:
                raise DownloadError(
                    f"{self.part}: cannot be written at byte {size:,}: {error.strerror or error};"
                    " make room and call again to go on from there"
                ) from error
        if broken is not None or (total is not None and size != total):
            of = f" of {total:,}" if total is not None else ""
            raise _BrokenTransferError(f"the transfer broke off at {size:,}{of} bytes") from broken

    def _need_space(self, url: str, needed: int) -> None:
        free = shutil.disk_usage(self.part.parent).free
        if needed > free:
            raise DownloadError(
                f"{url}: {self.part.parent} needs {needed:,} bytes, but {free:,} are free"
            )

    def _forget(self) -> None:
        self.part.unlink(missing_ok=True)
        self.record.unlink(missing_ok=True)

    def _start_again(self, reason: str) -> None:
        self._forget()
        raise _BrokenTransferError(reason)


def _total_size(response: requests.Response) -> int | None:
    """Size of the whole file in bytes, if the server says."""
    if response.status_code == 206:
        match = re.fullmatch(r"bytes \d+-\d+/(\d+)", response.headers.get("Content-Range", ""))
        return int(match[1]) if match else None
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else None


def _range_start(response: requests.Response) -> int | None:
    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(match[1]) if match else None


def _validator(response: requests.Response) -> str | None:
    """Return a value fit for If-Range: a weak ETag is not."""
    etag = response.headers.get("ETag", "")
    if etag and not etag.startswith("W/"):
        return etag
    return response.headers.get("Last-Modified")
