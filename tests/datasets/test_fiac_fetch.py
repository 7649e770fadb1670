import gzip
import hashlib
import http.server
import io
import logging
import re
import socket
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from chunkglm.datasets import fetch_fiac, simulate_fiac
from chunkglm.datasets._layout import FIAC_FOLDER, FILES
from chunkglm.errors import DownloadError, StoreError

NAME = "nipy-data-0.2.tar.gz"


def design_bytes(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def contents(seed: int = 0) -> dict[str, bytes]:
    rng = np.random.default_rng(seed)
    # Real FIAC keeps its names as bytes, not text.
    design = design_bytes(X=rng.normal(size=(9, 2)), conditions=np.array([b"SStSSp", b"SStDSp"]))
    runs = {name: rng.bytes(40_000) for name in FILES if name.endswith(".nii.gz")}
    return runs | {name: design for name in FILES if name.endswith(".npz")}


def archive_of(files: dict[str, bytes], *extra: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        members = [(tarfile.TarInfo(f"nipy-data-0.2/README-{i}"), b"text") for i in range(3)]
        for name, content in files.items():
            members.append((tarfile.TarInfo((FIAC_FOLDER / name).as_posix()), content))
        for member, content in (*members, *extra):
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


class Server(http.server.ThreadingHTTPServer):
    """Serves one file, with the faults it is told to have."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = b""
        self.etag: str | None = '"v1"'
        self.ranges = True
        self.sizes = True
        self.break_after: list[int] = []  # bytes to send before closing, one per request
        self.requests: list[dict[str, str]] = []
        self.sent: list[int] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/data-packages/{NAME}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        server.requests.append(dict(self.headers))
        body, total = server.content, len(server.content)
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        same = self.headers.get("If-Range") in (None, server.etag)
        if match and server.ranges and same:
            start = int(match[1])
            body = body[start:]
            self.send_response(206 if body else 416)
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        else:
            self.send_response(200 if total else 404)
        if server.sizes:
            self.send_header("Content-Length", str(len(body)))
        if server.etag:
            self.send_header("ETag", server.etag)
        self.end_headers()
        stop = server.break_after.pop(0) if server.break_after else len(body)
        server.sent.append(min(stop, len(body)))
        self.wfile.write(body[:stop])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as running:
        running.content = archive_of(contents())
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def check_whole(folder: Path, seed: int = 0) -> None:
    home = folder / FIAC_FOLDER
    assert {name: (home / name).read_bytes() for name in FILES} == contents(seed)
    leftovers = {".part", ".tmp", ".json"}
    assert not [path for path in folder.iterdir() if path.suffix in leftovers]
    assert {path.name for path in folder.iterdir()} <= {NAME, NAME + ".sha256", "nipy-data-0.2"}


def test_fetch_fiac__plain(server: Server, tmp_path: Path) -> None:
    data = fetch_fiac(tmp_path / "new folder", url=server.url, progress=False)
    check_whole(tmp_path / "new folder")
    home = tmp_path / "new folder" / FIAC_FOLDER
    assert data.runs == (home / "run1.nii.gz", home / "run2.nii.gz")
    assert data.designs == (home / "run1_design.npz", home / "run2_design.npz")
    assert (data.mask, data.t_r, data.activation) == (home / "mask.nii.gz", 2.5, None)
    digest = hashlib.sha256(server.content).hexdigest()
    assert (tmp_path / "new folder" / f"{NAME}.sha256").read_text() == f"{digest}  {NAME}\n"
    assert not list(home.parents[3].rglob("README*"))


def test_fetch_fiac__second_call_asks_the_server_nothing(server: Server, tmp_path: Path) -> None:
    first = fetch_fiac(tmp_path, url=server.url, progress=False)
    assert fetch_fiac(tmp_path, url=server.url, progress=False) == first
    (tmp_path / NAME).unlink()  # the files are enough
    assert fetch_fiac(tmp_path, url=server.url, progress=False) == first
    assert len(server.requests) == 1


def test_fetch_fiac__restores_a_damaged_file_from_the_archive(
    server: Server, tmp_path: Path
) -> None:
    data = fetch_fiac(tmp_path, url=server.url, progress=False)
    data.mask.write_bytes(b"not the mask")
    data.runs[0].unlink()
    fetch_fiac(tmp_path, url=server.url, progress=False)
    check_whole(tmp_path)
    assert len(server.requests) == 1


def test_fetch_fiac__resumes_within_a_call(server: Server, tmp_path: Path) -> None:
    server.break_after = [30_000]
    fetch_fiac(tmp_path, url=server.url, progress=False)
    check_whole(tmp_path)
    assert "Range" not in server.requests[0]
    assert server.requests[1]["Range"] == "bytes=30000-"
    assert server.requests[1]["If-Range"] == '"v1"'
    assert sum(server.sent) == len(server.content)


def test_fetch_fiac__resumes_in_a_later_call(server: Server, tmp_path: Path) -> None:
    server.break_after = [20_000, 10_000, 5_000]
    with pytest.raises(DownloadError, match=r"broke off at 35,000 of [\d,]+ bytes; call again"):
        fetch_fiac(tmp_path, url=server.url, progress=False)
    assert (tmp_path / f"{NAME}.part").stat().st_size == 35_000
    assert not (tmp_path / NAME).exists()
    fetch_fiac(tmp_path, url=server.url, progress=False)
    check_whole(tmp_path)
    assert server.requests[-1]["Range"] == "bytes=35000-"
    assert sum(server.sent) == len(server.content)


def test_fetch_fiac__starts_again_where_ranges_are_ignored(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    server.break_after = [30_000]
    fetch_fiac(tmp_path, url=server.url, progress=False)
    check_whole(tmp_path)
    assert server.requests[1]["Range"] == "bytes=30000-"
    assert server.sent == [30_000, len(server.content)]


@pytest.mark.parametrize("etag", ['"v2"', None])
def test_fetch_fiac__never_joins_two_files(
    server: Server, tmp_path: Path, etag: str | None
) -> None:
    server.etag = '"v1"' if etag else None
    server.break_after = [30_000, 0, 0]
    with pytest.raises(DownloadError, match="broke off"):
        fetch_fiac(tmp_path, url=server.url, progress=False)
    # With an ETag the server tells; without one, the size does.
    server.content, server.etag = archive_of(contents(1) | {"README": b"longer"}), etag
    fetch_fiac(tmp_path, url=server.url, progress=False)
    check_whole(tmp_path, seed=1)


def test_fetch_fiac__another_url_starts_from_nothing(server: Server, tmp_path: Path) -> None:
    server.break_after = [30_000, 0, 0]
    with pytest.raises(DownloadError):
        fetch_fiac(tmp_path, url=server.url, progress=False)
    fetch_fiac(tmp_path, url=server.url.replace("data-packages", "mirror"), progress=False)
    check_whole(tmp_path)
    assert "Range" not in server.requests[-1]


def test_fetch_fiac__a_whole_part_is_not_downloaded_again(server: Server, tmp_path: Path) -> None:
    server.break_after = [30_000, 0, 0]
    with pytest.raises(DownloadError):
        fetch_fiac(tmp_path, url=server.url, progress=False)
    (tmp_path / f"{NAME}.part").write_bytes(server.content)  # killed just before the move
    n_requests = len(server.requests)
    fetch_fiac(tmp_path, url=server.url, progress=False)
    check_whole(tmp_path)
    assert len(server.requests) == n_requests


def test_fetch_fiac__works_without_a_size(server: Server, tmp_path: Path) -> None:
    server.sizes = False
    fetch_fiac(tmp_path, url=server.url, progress=False)
    check_whole(tmp_path)


def test_fetch_fiac__first_download_is_the_measure_of_later_ones(
    server: Server, tmp_path: Path
) -> None:
    fetch_fiac(tmp_path, url=server.url, progress=False)
    before = hashlib.sha256(server.content).hexdigest()
    server.content = archive_of(contents(1))
    after = hashlib.sha256(server.content).hexdigest()
    (tmp_path / NAME).unlink()
    (tmp_path / FIAC_FOLDER / "mask.nii.gz").unlink()
    with pytest.raises(
        DownloadError, match=rf"{before}.*{after}.*it changed since.*delete .*sha256"
    ):
        fetch_fiac(tmp_path, url=server.url, progress=False)
    assert not (tmp_path / NAME).exists()
    (tmp_path / f"{NAME}.sha256").unlink()
    fetch_fiac(tmp_path, url=server.url, progress=False)
    check_whole(tmp_path, seed=1)


def test_fetch_fiac__archive_changed_on_disk_is_had_again(server: Server, tmp_path: Path) -> None:
    fetch_fiac(tmp_path, url=server.url, progress=False)
    (tmp_path / NAME).write_bytes(archive_of(contents(1)))
    fetch_fiac(tmp_path, url=server.url, progress=False)
    check_whole(tmp_path)
    assert (tmp_path / NAME).read_bytes() == server.content


@pytest.mark.parametrize("prefix", ["", "sha256:"])
def test_fetch_fiac__pinned_hash(server: Server, tmp_path: Path, prefix: str) -> None:
    digest = hashlib.sha256(server.content).hexdigest()
    wrong = prefix + "0" * 64
    with pytest.raises(DownloadError, match=rf"expected {'0' * 64} but got {digest}.*known_hash"):
        fetch_fiac(tmp_path, url=server.url, known_hash=wrong, progress=False)
    assert not (tmp_path / FIAC_FOLDER).exists()
    assert [path.name for path in tmp_path.iterdir()] == []
    fetch_fiac(tmp_path, url=server.url, known_hash=prefix + digest.upper(), progress=False)
    check_whole(tmp_path)
    with pytest.raises(DownloadError, match="known_hash"):
        fetch_fiac(tmp_path, url=server.url, known_hash=wrong, progress=False)


@pytest.mark.parametrize("known_hash", ["md5:0123", "12", "g" * 64])
def test_fetch_fiac__refuses_what_is_no_hash(tmp_path: Path, known_hash: str) -> None:
    with pytest.raises(DownloadError, match="64 hex digits"):
        fetch_fiac(tmp_path, known_hash=known_hash)


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize(
    "name", ["../evil", "nipy-data-0.2/../../evil", "/srv/evil", "a\\..\\..\\evil"]
)
def test_fetch_fiac__refuses_a_member_that_climbs_out(
    server: Server, tmp_path: Path, name: str
) -> None:
    server.content = archive_of(contents(), (member(name), b"evil"))
    folder = tmp_path / "data"
    with pytest.raises(DownloadError, match=r"refused, its member .*evil.* leaves the folder"):
        fetch_fiac(folder, url=server.url, progress=False)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["data", NAME]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE])
def test_fetch_fiac__refuses_a_link_in_place_of_a_file(
    server: Server, tmp_path: Path, kind: bytes
) -> None:
    files = contents()
    del files["mask.nii.gz"]
    link = member((FIAC_FOLDER / "mask.nii.gz").as_posix(), kind, "/etc/passwd")
    server.content = archive_of(files, (link, b""))
    with pytest.raises(DownloadError, match=r"mask\.nii\.gz.* is not a plain file"):
        fetch_fiac(tmp_path, url=server.url, progress=False)
    assert not (tmp_path / FIAC_FOLDER).exists()


def test_fetch_fiac__links_elsewhere_in_the_archive_do_no_harm(
    server: Server, tmp_path: Path
) -> None:
    folder_link = member("nipy-data-0.2/data", tarfile.SYMTYPE, str(tmp_path / "outside"))
    (tmp_path / "outside").mkdir()
    server.content = archive_of({}, (folder_link, b""), *[
        (member((FIAC_FOLDER / name).as_posix()), content) for name, content in contents().items()
    ])  # fmt: skip
    fetch_fiac(tmp_path / "in", url=server.url, progress=False)
    check_whole(tmp_path / "in")
    assert list((tmp_path / "outside").iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (archive_of(contents())[:-30_000], "is damaged"),
        (archive_of(contents())[:-8] + bytes(8), "is damaged"),
        (b"<html>gone</html>", "is damaged"),
        (gzip.compress(b""), "is damaged|lacks"),
        (archive_of({}), r"lacks .*run1\.nii\.gz"),
        (
            archive_of(
                contents() | {"run1_design.npz": design_bytes(X=np.array([{}], dtype=object))}
            ),
            "is not a plain archive of X and conditions",
        ),
        (
            archive_of(
                contents()
                | {"run2_design.npz": design_bytes(X=np.ones((9, 3)), conditions=np.ones(2))}
            ),
            "do not belong together",
        ),
        (b"", "answered 404"),
    ],
    ids=["truncated", "checksum", "html", "empty", "lacking", "pickle", "mismatched", "missing"],
)
def test_fetch_fiac__refuses_what_is_not_the_data(
    server: Server, tmp_path: Path, content: bytes, message: str
) -> None:
    server.content = content
    with pytest.raises(DownloadError, match=message) as caught:
        fetch_fiac(tmp_path, url=server.url, progress=False)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / FIAC_FOLDER).exists()
    assert not (tmp_path / f"{NAME}.sha256").exists()


def test_fetch_fiac__offline_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/{NAME}"
    with pytest.raises(DownloadError) as caught:
        fetch_fiac(tmp_path, url=url, progress=False)
    message = str(caught.value)
    assert message.startswith(f"{url}: it could not be reached; download it by hand to ")
    assert str(tmp_path / NAME) in message
    assert "simulate_fiac" in message
    assert "\n" not in message


def test_fetch_fiac__uses_an_archive_put_there_by_hand(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(archive_of(contents()))
    fetch_fiac(tmp_path, url=f"http://127.0.0.1:9/{NAME}", progress=False)
    check_whole(tmp_path)


def test_fetch_fiac__full_disk_is_seen_before_the_transfer(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("chunkglm.datasets._download.shutil.disk_usage", lambda _: usage)
    with pytest.raises(DownloadError, match=rf"needs {len(server.content):,} bytes, but 1,000 are"):
        fetch_fiac(tmp_path, url=server.url, progress=False)


def test_fetch_fiac__never_takes_a_simulation_for_the_data(tmp_path: Path) -> None:
    from chunkglm.datasets._simulate import _simulate

    _simulate(tmp_path, shape=(8, 8, 6), n_scans=60)
    with pytest.raises(DownloadError, match="holds a simulation"):
        fetch_fiac(tmp_path)


def test_simulate_fiac__never_takes_the_place_of_the_data(server: Server, tmp_path: Path) -> None:
    fetch_fiac(tmp_path, url=server.url, progress=False)
    with pytest.raises(StoreError, match=r"download\.json"):
        simulate_fiac(tmp_path)
    check_whole(tmp_path)


def test_fetch_fiac__shows_a_bar_on_stderr_only_when_asked(
    server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import pooch

    level = pooch.get_logger().level
    fetch_fiac(tmp_path / "quiet", url=server.url, progress=False)
    assert capfd.readouterr() == ("", "")
    fetch_fiac(tmp_path / "loud", url=server.url)
    out, err = capfd.readouterr()
    assert out == ""
    assert "100%" in err
    assert logging.getLogger(pooch.get_logger().name).level == level


def test_datasets__import_is_cheap() -> None:
    code = (
        "import sys, chunkglm.datasets;"
        "print([m for m in ('nilearn', 'matplotlib', 'pooch', 'requests', 'dask')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
