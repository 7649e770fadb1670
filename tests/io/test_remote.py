"""Runs, stores, fits and maps behind URLs: S3 as moto's server speaks it, web servers, memory."""

import functools
import gzip
import http.server
import pickle
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr
import zarr
from helpers_lazy import (
    SHAPE,
    make_data,
    make_design,
    make_mask,
    one_line,
    same_bytes,
    truth_of,
    write_run,
)
from helpers_s3 import S3

import chunkglm as cg
from chunkglm.errors import ChunkglmError, ImageError, MapsError, StoreError
from chunkglm.io import open_source
from chunkglm.io.remote import RemoteStore

fsspec = pytest.importorskip("fsspec")

DESIGN, MASK = make_design(), make_mask()


@dataclass(frozen=True)
class Web:
    """A folder behind a web server on this machine."""

    folder: Path
    address: str
    requests: list[tuple[str, str | None]]

    def url(self, name: str) -> str:
        return f"{self.address}/{name}"


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, and parts of files if it is told to."""

    def __init__(self, *args: Any, ranges: bool, requests: list[Any], **kwargs: Any) -> None:
        self.ranges, self.requests = ranges, requests
        super().__init__(*args, **kwargs)

    def log_message(self, *_: Any) -> None:
        pass

    def list_directory(self, path: Any) -> None:
        self.send_error(404)

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.requests.append((self.path, wanted))
        path = Path(self.translate_path(self.path))
        if not (self.ranges and wanted and path.is_file()):
            super().do_GET()
            return
        content = path.read_bytes()
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        part = content[int(first) : int(last) + 1 if last else None]
        self.send_response(206)
        self.send_header("Content-Length", str(len(part)))
        end = int(first) + len(part) - 1
        self.send_header("Content-Range", f"bytes {first}-{end}/{len(content)}")
        self.end_headers()
        self.wfile.write(part)


@pytest.fixture(params=[True, False], ids=["ranges", "whole files"])
def web(request: Any, tmp_path: Path) -> Iterator[Web]:
    pytest.importorskip("aiohttp")
    folder, requests = tmp_path / "served", []
    folder.mkdir()
    handler = functools.partial(
        _Handler, directory=str(folder), ranges=request.param, requests=requests
    )
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield Web(folder, f"http://127.0.0.1:{server.server_address[1]}", requests)
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run as a file, plain and compressed, and as a store of several chunks."""
    folder = tmp_path_factory.mktemp("local")
    for name in ("run.nii", "run.nii.gz"):
        write_run(folder / name, slope=0.37, intercept=-11.5)
    with small_chunks():
        cg.convert(folder / "run.nii.gz", folder / "run.zarr", progress=False)
    return folder


@contextmanager
def small_chunks(chunks: tuple[int, int, int, int] = (5, 4, 3, 10)) -> Iterator[None]:
    """Makes stores of several chunks, and slabs of as few planes as may be."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("chunkglm.glm.runs.store_chunks", lambda *_: chunks)
        patch.setattr("chunkglm.sizes.SMALLEST_SLAB_BYTES", 1)
        yield


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def maps_of(run: Any, definition: Any = "a - b") -> xr.Dataset:
    with small_chunks():
        return cg.contrast(cg.fit(run, DESIGN, mask=MASK), definition).compute()


def own_of_this_writing(key: str) -> bool:
    """Whether a key holds what differs from one writing to the next."""
    return key == "zarr.json" or key.endswith("chunkglm-manifest.json")


# --- S3 ---------------------------------------------------------------------------------------


def test_s3__everything_is_as_it_is_locally(s3: S3, local: Path, tmp_path: Path) -> None:
    with small_chunks():
        url = cg.convert(
            local / "run.nii.gz", s3.url("run.zarr"), storage_options=s3.options, progress=False
        )
    assert url == s3.url("run.zarr")
    assert cg.verify(url, storage_options=s3.options) == []
    found, expected = s3.contents("run.zarr/"), files_of(local / "run.zarr")
    assert set(found) == set(expected)
    same = [key for key in found if not own_of_this_writing(key)]
    assert len([key for key in same if "/c/" in key]) == 2 * 3 + 1
    assert all(found[key] == expected[key] for key in same)

    run = cg.open_run(url, storage_options=s3.options)
    assert run.attrs["source"] == url
    assert np.array_equal(run.to_numpy(), truth_of(local / "run.nii"))
    for definition in ("a - b", ["a", "b"]):
        assert same_bytes(maps_of(run, definition), maps_of(local / "run.zarr", definition))

    with small_chunks():
        fitted, here = (cg.fit(r, DESIGN, mask=MASK) for r in (run, local / "run.zarr"))
        saved = fitted.save(s3.url("fit.zarr"), storage_options=s3.options)
        here.save(tmp_path / "fit.zarr")
    found, expected = s3.contents("fit.zarr/"), files_of(tmp_path / "fit.zarr")
    assert set(found) == set(expected)
    assert all(found[k] == expected[k] for k in found if not own_of_this_writing(k))
    assert cg.verify(saved, storage_options=s3.options) == []
    again = cg.open_fit(saved, storage_options=s3.options)
    for definition in ("a - b", ["a", "b"]):
        assert same_bytes(
            cg.contrast(again, definition).compute(), maps_of(local / "run.zarr", definition)
        )


@pytest.mark.parametrize("name", ["run.nii.gz", "run.nii"])
@pytest.mark.parametrize("anonymous", [False, True])
def test_s3__a_source_is_streamed(s3: S3, local: Path, name: str, anonymous: bool) -> None:
    content = (local / name).read_bytes()
    url = s3.put(f"{anonymous}/{name}", content, "public-read" if anonymous else "private")
    options = s3.anonymous if anonymous else s3.options
    run = cg.open_run(url, storage_options=options)
    assert run.attrs["source"] == url
    assert np.array_equal(run.isel(time=7, z=2).to_numpy(), truth_of(local / name)[:, :, 2, 7])
    # In one pass over the file, as the compressed one is read locally.
    assert same_bytes(maps_of(run), maps_of(local / "run.nii.gz"))


def test_s3__convert_from_there_to_here_and_to_there(s3: S3, local: Path, tmp_path: Path) -> None:
    url = s3.put("source/run.nii.gz", (local / "run.nii.gz").read_bytes())
    with small_chunks():
        cg.convert(url, tmp_path / "run.zarr", storage_options=s3.options, progress=False)
        cg.convert(url, s3.url("there.zarr"), storage_options=s3.options, progress=False)
    expected = files_of(local / "run.zarr")
    for found in (files_of(tmp_path / "run.zarr"), s3.contents("there.zarr/")):
        assert set(found) == set(expected)
        assert all(found[k] == expected[k] for k in found if not own_of_this_writing(k))


def test_s3__sources_can_be_sent_to_processes(s3: S3, local: Path) -> None:
    distributed = pytest.importorskip("distributed")
    urls = [s3.put("cluster/run.nii.gz", (local / "run.nii.gz").read_bytes())]
    with small_chunks():
        urls.append(
            cg.convert(
                local / "run.nii.gz", s3.url("c.zarr"), storage_options=s3.options, progress=False
            )
        )
        fits = [cg.fit(cg.open_run(u, storage_options=s3.options), DESIGN, mask=MASK) for u in urls]
    for fitted in fits:
        assert s3.options["secret"] not in repr(fitted)
    with (
        dask.config.set({"distributed.worker.daemon": True}),
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=None,
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        found = client.gather(client.compute([cg.contrast(f, "a - b") for f in fits]))
    for maps, name in zip(found, ("run.nii.gz", "run.zarr"), strict=True):
        assert same_bytes(maps, maps_of(local / name))


def test_source__holds_what_opens_it_again(s3: S3, local: Path) -> None:
    url = s3.put("pickled.nii.gz", (local / "run.nii.gz").read_bytes())
    source = open_source(url, s3.options)
    assert "secret" not in repr(source) + source.token
    sent = pickle.loads(pickle.dumps(source))
    assert sent.token == source.token
    assert np.array_equal(sent.read(range(6), 0, 30).T, make_data())


@pytest.mark.parametrize("name", ["run.nii.gz", "run.nii"])
def test_s3__a_source_that_changed_since_it_was_opened_is_refused(
    s3: S3, local: Path, name: str
) -> None:
    url = s3.put(f"changing/{name}", (local / name).read_bytes())
    run = cg.open_run(url, storage_options=s3.options)
    # What a file system remembers of a listing would be that of the old file.
    fsspec.filesystem("s3", **s3.options).ls(f"{s3.bucket}/changing", detail=True)
    other = write_run(local / f"other-{name}", np.roll(make_data(), 1, axis=3), slope=0.37)
    content = other.read_bytes()
    if name == "run.nii":
        assert len(content) == (local / name).stat().st_size
    s3.put(f"changing/{name}", content)
    for look in (run.to_numpy, lambda: maps_of(run)):
        with pytest.raises(ImageError) as caught:
            look()
        one_line(caught.value, url, "changed since it was opened")


def broken(content: bytes, how: str) -> bytes:
    if how == "truncated":
        return content[: len(content) // 2]
    if how == "without its end":
        return content[:-4]
    if how == "checksum":
        return content[:-8] + bytes(b ^ 1 for b in content[-8:-4]) + content[-4:]
    return content[:1500] + bytes([content[1500] ^ 16]) + content[1501:]


@pytest.mark.parametrize("how", ["truncated", "without its end", "checksum", "flipped bit"])
def test_s3__a_damaged_compressed_source_is_refused(
    s3: S3, local: Path, tmp_path: Path, how: str
) -> None:
    url = s3.put("broken.nii.gz", broken((local / "run.nii.gz").read_bytes(), how))
    run = cg.open_run(url, storage_options=s3.options)
    for look in (
        lambda: maps_of(run),
        lambda: cg.convert(url, tmp_path / "out.zarr", storage_options=s3.options, progress=False),
    ):
        with pytest.raises(ImageError) as caught:
            look()
        one_line(caught.value, url, "truncated or corrupt")
    assert not (tmp_path / "out.zarr").exists()


def test_s3__a_truncated_plain_source_is_refused_on_opening(s3: S3, local: Path) -> None:
    url = s3.put("broken.nii", broken((local / "run.nii").read_bytes(), "truncated"))
    with pytest.raises(ImageError) as caught:
        cg.open_run(url, storage_options=s3.options)
    one_line(caught.value, url, "truncated")


def calls(url: str, options: dict[str, Any], local: Path) -> dict[str, Any]:
    """Everything that reaches out, by name."""
    file, store = f"{url}/none.nii.gz", f"{url}/none.zarr"
    return {
        "open a file": lambda: cg.open_run(file, storage_options=options),
        "open a plain file": lambda: cg.open_run(f"{url}/none.nii", storage_options=options),
        "open a store": lambda: cg.open_run(store, storage_options=options),
        "open a fit": lambda: cg.open_fit(store, storage_options=options),
        "verify": lambda: cg.verify(store, storage_options=options),
        "export": lambda: cg.export_nifti(store, local / "x.nii", storage_options=options),
        "open maps": lambda: cg.open_maps(url, prefix="p", storage_options=options),
        "convert from": lambda: cg.convert(
            file, local / "x.zarr", storage_options=options, progress=False
        ),
        "convert to": lambda: cg.convert(
            local / "run.nii", store, storage_options=options, progress=False
        ),
        "save maps": lambda: cg.save(
            cg.contrast(cg.fit(local / "run.nii", DESIGN), "a"), url, prefix="p",
            storage_options=options,
        ),
        "save a fit": lambda: cg.fit(local / "run.nii", DESIGN).save(
            store, storage_options=options
        ),
    }  # fmt: skip


WRITES = ("convert to", "save maps", "save a fit")


def buckets_of(s3: S3) -> list[str]:
    return [bucket["Name"] for bucket in s3.client.list_buckets()["Buckets"]]


@pytest.mark.parametrize("trouble", ["bucket", "key", "option", "protocol"])
def test_s3__what_is_not_there_is_told_in_a_line(s3: S3, local: Path, trouble: str) -> None:
    url, options = s3.url("nothing"), s3.options
    before = buckets_of(s3)
    if trouble == "bucket":
        url = "s3://no-such-bucket/nothing"
    elif trouble == "option":
        options = {"nonsense": 1}
    elif trouble == "protocol":
        url, options = "nonsense://bucket/nothing", {}
    for name, call in calls(url, options, local).items():
        if trouble == "key" and name in WRITES:
            continue
        with pytest.raises(ChunkglmError) as caught:
            call()
        one_line(caught.value, url)
    # A bucket that is not there is not made. Servers of one process share their buckets.
    assert buckets_of(s3) == before


def test_s3__a_host_that_is_down_is_told_in_a_line(local: Path) -> None:
    pytest.importorskip("s3fs")
    options = {
        "key": "key",
        "secret": "secret",
        "endpoint_url": "http://127.0.0.1:9",
        "config_kwargs": {"retries": {"max_attempts": 0}, "connect_timeout": 1},
    }
    for call in calls("s3://bucket/nothing", options, local).values():
        with pytest.raises(ChunkglmError) as caught:
            call()
        one_line(caught.value, "s3://bucket/nothing", "cannot be reached")
        assert "secret" not in str(caught.value)


def test_s3__no_access_is_told_in_a_line(
    s3: S3, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = s3.put("private.nii.gz", (local / "run.nii.gz").read_bytes())
    with pytest.raises(ImageError) as caught:
        cg.open_run(url, storage_options=s3.anonymous)
    one_line(caught.value, url, "access is denied")

    # No credentials anywhere: neither in the environment, nor in files, nor of the machine.
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(local / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    options = {"endpoint_url": s3.endpoint, "use_listings_cache": False}
    for call in calls(s3.url("nothing"), options, local).values():
        with pytest.raises(ChunkglmError) as caught:
            call()
        one_line(caught.value, s3.url("nothing"), "redentials")


# --- complete or absent -----------------------------------------------------------------------

PLACES = ["s3", "memory"]


@pytest.fixture(params=PLACES)
def place(request: Any, tmp_path: Path) -> tuple[str, dict[str, Any]]:
    """Where a store goes, S3 or memory, and the options for it."""
    if request.param == "s3":
        s3 = request.getfixturevalue("s3")
        return s3.url(tmp_path.name), s3.options
    return f"memory://{tmp_path.name}", {}


def keys_of(url: str, options: dict[str, Any]) -> list[str]:
    found, inside = fsspec.core.url_to_fs(url, **options)
    found.invalidate_cache()
    return sorted(name.removeprefix(inside) for name in found.find(inside))


def test_conversion_that_fails__leaves_nothing(
    place: tuple[str, dict[str, Any]], local: Path, tmp_path: Path
) -> None:
    url, options = place
    source = tmp_path / "run.nii.gz"
    # Its checksum is at its end: by then, most of the store has been written.
    source.write_bytes(broken((local / "run.nii.gz").read_bytes(), "checksum"))
    with small_chunks(), pytest.raises(ImageError):
        cg.convert(source, f"{url}/run.zarr", storage_options=options, progress=False)
    assert keys_of(url, options) == []
    with pytest.raises(StoreError):
        cg.open_run(f"{url}/run.zarr", storage_options=options)


def test_overwriting__keeps_the_old_store_until_the_new_one_is_whole(
    place: tuple[str, dict[str, Any]], local: Path, tmp_path: Path
) -> None:
    url, options = f"{place[0]}/run.zarr", place[1]
    other = write_run(tmp_path / "other.nii.gz", make_data(seed=5))
    bad = tmp_path / "bad.nii.gz"
    bad.write_bytes(broken(other.read_bytes(), "checksum"))
    with small_chunks():
        cg.convert(local / "run.nii", url, storage_options=options, progress=False)
        with pytest.raises(StoreError) as caught:
            cg.convert(other, url, storage_options=options, progress=False)
        one_line(caught.value, url, "exists", "overwrite")
        before = keys_of(place[0], options)
        with pytest.raises(ImageError):
            cg.convert(bad, url, storage_options=options, overwrite=True, progress=False)
        assert keys_of(place[0], options) == before
        assert cg.verify(url, storage_options=options) == []
        run = cg.open_run(url, storage_options=options)
        assert np.array_equal(run.to_numpy(), truth_of(local / "run.nii"))
    # Of other chunks, fewer: none of the old ones may stay.
    cg.convert(other, url, storage_options=options, overwrite=True, progress=False)
    assert cg.verify(url, storage_options=options) == []
    assert len(keys_of(place[0], options)) < len(before)
    assert np.array_equal(cg.open_run(url, storage_options=options).to_numpy(), truth_of(other))
    with pytest.raises(StoreError) as caught:
        run.to_numpy()
    one_line(caught.value, url, "written anew")


def test_reader__sees_the_old_store_or_the_new_one_or_an_error(
    place: tuple[str, dict[str, Any]], local: Path, tmp_path: Path
) -> None:
    url, options = f"{place[0]}/run.zarr", place[1]
    other = write_run(tmp_path / "other.nii", make_data(seed=5))
    values = [truth_of(local / "run.nii"), truth_of(other)]
    with small_chunks():
        cg.convert(local / "run.nii", url, storage_options=options, progress=False)
    done = threading.Event()
    seen: list[Any] = []

    def read() -> None:
        while True:
            last = done.is_set()
            try:
                found = cg.open_run(url, storage_options=options).to_numpy()
                seen.append(next((i for i, v in enumerate(values) if np.array_equal(found, v)), -1))
            except StoreError as error:
                seen.append(str(error))
            except BaseException as error:  # what must not come
                seen.append(error)
            if last:
                return

    reader = threading.Thread(target=read)
    reader.start()
    with small_chunks((5, 4, 6, 15)):
        for source in [other, local / "run.nii"] * (1 if url.startswith("s3") else 5):
            cg.convert(source, url, storage_options=options, overwrite=True, progress=False)
    done.set()
    reader.join()
    wrong = [s for s in seen if not (s in (0, 1) if isinstance(s, int) else isinstance(s, str))]
    assert wrong == []
    assert seen[-1] == 0


def test_overwriting__cut_short_anywhere_is_old_or_new_or_refused(
    local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write_run(tmp_path / "other.nii", make_data(seed=5))
    values = [truth_of(local / "run.nii"), truth_of(other)]
    left = [0]

    class Killed(BaseException):
        pass

    def counted(name: str) -> None:
        original = getattr(RemoteStore, name)

        async def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:  # and whatever is tried afterwards
                raise Killed
            return await original(self, *args, **kwargs)

        monkeypatch.setattr(RemoteStore, name, call)

    for name in ("set", "delete", "clear"):
        counted(name)
    monkeypatch.setattr("chunkglm.io.place.Place.remove", lambda _: None)
    outcomes = []
    with small_chunks((5, 4, 6, 15)):
        for n in range(100):
            url = f"memory://{tmp_path.name}-{n}/run.zarr"
            left[0] = 1000
            cg.convert(local / "run.nii", url, progress=False)
            left[0] = n
            try:
                cg.convert(other, url, overwrite=True, progress=False)
            except Killed:
                pass
            else:
                break
            try:
                found = cg.open_run(url).to_numpy()
                outcomes.append(next(i for i, v in enumerate(values) if np.array_equal(found, v)))
            except StoreError:
                outcomes.append("refused")
            left[0] = 1000
            cg.convert(other, url, overwrite=True, progress=False)
            assert cg.verify(url) == []
            assert np.array_equal(cg.open_run(url).to_numpy(), values[1])
    assert outcomes[0] == 0
    assert "refused" in outcomes
    assert len(outcomes) > 15


# --- maps -------------------------------------------------------------------------------------


@pytest.mark.parametrize("definition", ["a - b", ["a", "b"]])
def test_maps__behind_a_url_are_the_bytes_of_local_ones(
    place: tuple[str, dict[str, Any]], local: Path, tmp_path: Path, definition: Any
) -> None:
    url, options = f"{place[0]}/new/out", place[1]
    maps = cg.contrast(cg.fit(local / "run.nii", DESIGN, mask=MASK), definition)
    for _ in range(2):  # and over those that are there
        written = cg.save(maps, url, prefix="sub-01_x", storage_options=options)
        here = cg.save(maps, tmp_path / "out", prefix="sub-01_x")
        assert [w.removeprefix(f"{url}/") for w in written] == [Path(h).name for h in here]
        found, inside = fsspec.core.url_to_fs(url, **options)
        contents = {n.rpartition("/")[2]: found.cat_file(n) for n in found.find(inside)}
        assert contents == files_of(tmp_path / "out")
    again, expected = (
        cg.open_maps(f, prefix="sub-01_x", storage_options=o)
        for f, o in ((url, options), (tmp_path / "out", None))
    )
    assert again.identical(expected)

    found.rm(next(n for n in found.find(inside) if n.endswith("variance_statmap.nii.gz")))
    with pytest.raises(MapsError) as caught:
        cg.open_maps(url, prefix="sub-01_x", storage_options=options)
    one_line(caught.value, f"{url}/sub-01_x_stat-variance_statmap.nii.gz")


def test_maps__that_are_damaged_behind_a_url_are_refused(s3: S3, local: Path) -> None:
    maps = cg.contrast(cg.fit(local / "run.nii", DESIGN), "a")
    url = cg.save(maps, s3.url("damaged"), prefix="p", storage_options=s3.options)[0]
    name = url.removeprefix(s3.url(""))
    s3.put(name, broken(s3.contents(name)[""], "truncated"))
    with pytest.raises(MapsError) as caught:
        cg.open_maps(s3.url("damaged"), prefix="p", storage_options=s3.options)
    assert "tmp" not in one_line(caught.value, url)


def test_save__refuses_options_for_a_local_folder(local: Path, tmp_path: Path) -> None:
    maps = cg.contrast(cg.fit(local / "run.nii", DESIGN), "a")
    with pytest.raises(MapsError) as caught:
        cg.save(maps, tmp_path / "out", prefix="p", storage_options={"anon": True})
    one_line(caught.value, tmp_path / "out", "storage_options")


# --- web servers ------------------------------------------------------------------------------


def test_web__a_compressed_source_is_streamed_in_one_request(web: Web, local: Path) -> None:
    (web.folder / "run.nii.gz").write_bytes((local / "run.nii.gz").read_bytes())
    run = cg.open_run(web.url("run.nii.gz"))
    assert np.array_equal(run.to_numpy(), truth_of(local / "run.nii"))
    web.requests.clear()
    assert same_bytes(maps_of(run), maps_of(local / "run.nii.gz"))
    assert web.requests == [("/run.nii.gz", None)]


def test_web__a_plain_source_is_streamed_or_read_in_parts(web: Web, local: Path) -> None:
    (web.folder / "run.nii").write_bytes((local / "run.nii").read_bytes())
    run = cg.open_run(web.url("run.nii"))
    assert same_bytes(maps_of(run), maps_of(local / "run.nii.gz"))
    look = run.isel(time=slice(20, 23), z=4)
    expected = truth_of(local / "run.nii")[:, :, 4, 20:23]
    # A pass over the file asks for it whole, a look at a few volumes for a part if it is given one.
    assert not any(wanted for _, wanted in web.requests)
    assert np.array_equal(look.to_numpy(), expected)
    assert any(wanted for _, wanted in web.requests)


def test_web__stores_and_fits_are_read(web: Web, local: Path) -> None:
    # The server lists no folder: the manifest tells what there is.
    with small_chunks():
        cg.convert(local / "run.nii", web.folder / "run.zarr", progress=False)
        cg.fit(local / "run.zarr", DESIGN, mask=MASK).save(web.folder / "fit.zarr")
    url = web.url("run.zarr")
    assert cg.verify(url) == []
    assert same_bytes(maps_of(url), maps_of(local / "run.zarr"))
    assert same_bytes(
        cg.contrast(cg.open_fit(web.url("fit.zarr")), "a - b").compute(),
        maps_of(local / "run.zarr"),
    )
    chunk = next(p for p in (web.folder / "run.zarr/bold/c").rglob("*") if p.is_file())
    chunk.unlink()
    with pytest.raises(StoreError) as caught:
        maps_of(url)
    one_line(caught.value, url, "is missing")
    assert len(cg.verify(url)) == 1


def test_web__nothing_is_written_there(web: Web, local: Path) -> None:
    maps = cg.contrast(cg.fit(local / "run.nii", DESIGN), "a")
    for call in (
        lambda: cg.convert(local / "run.nii", web.url("new.zarr"), progress=False),
        lambda: cg.fit(local / "run.nii", DESIGN).save(web.url("new.zarr")),
        lambda: cg.save(maps, web.url("new"), prefix="p"),
    ):
        with pytest.raises(ChunkglmError) as caught:
            call()
        one_line(caught.value, web.url("new"))
    assert list(web.folder.iterdir()) == []


def test_web__what_is_not_there_is_told_in_a_line(web: Web, local: Path) -> None:
    for name, call in calls(web.url("nothing"), {}, local).items():
        if name not in WRITES:
            with pytest.raises(ChunkglmError) as caught:
                call()
            one_line(caught.value, web.url("nothing"))


def test_web__a_source_cut_short_or_changed_is_refused(web: Web, local: Path) -> None:
    file, content = web.folder / "run.nii.gz", (local / "run.nii.gz").read_bytes()
    file.write_bytes(content[:-20])
    with pytest.raises(ImageError) as caught:
        maps_of(web.url("run.nii.gz"))
    one_line(caught.value, web.url("run.nii.gz"), "truncated or corrupt")
    run = cg.open_run(web.url("run.nii.gz"))
    file.write_bytes(gzip.compress(gzip.decompress(content), 1))
    with pytest.raises(ImageError) as caught:
        run.to_numpy()
    one_line(caught.value, web.url("run.nii.gz"), "changed since it was opened")


# --- other places -----------------------------------------------------------------------------


def test_memory__everything_is_as_it_is_locally(local: Path) -> None:
    with small_chunks():
        url = cg.convert(local / "run.nii.gz", "memory://whole/run.zarr", progress=False)
    assert cg.verify(url) == []
    assert same_bytes(maps_of(url), maps_of(local / "run.zarr"))
    with small_chunks():
        fitted = cg.open_fit(cg.fit(url, DESIGN, mask=MASK).save("memory://whole/fit.zarr"))
    assert same_bytes(cg.contrast(fitted, "a - b").compute(), maps_of(local / "run.zarr"))
    with fsspec.open("memory://whole/run.nii.gz", "wb") as file:
        file.write((local / "run.nii.gz").read_bytes())
    assert same_bytes(maps_of("memory://whole/run.nii.gz"), maps_of(local / "run.nii.gz"))


@pytest.mark.parametrize("kind", ["memory", "s3", "local"])
def test_store_objects__are_taken(s3: S3, local: Path, tmp_path: Path, kind: str) -> None:
    def make(name: str) -> Any:
        if kind == "memory":
            return zarr.storage.MemoryStore()
        if kind == "local":
            return zarr.storage.LocalStore(tmp_path / name)
        return zarr.storage.FsspecStore.from_url(
            s3.url(f"objects/{name}"), storage_options=s3.options
        )

    store, fit_store = make("run.zarr"), make("fit.zarr")
    with small_chunks():
        cg.convert(local / "run.nii", store, progress=False)
        assert cg.verify(store) == []
        cg.fit(cg.open_run(store), DESIGN, mask=MASK).save(fit_store)
    assert same_bytes(maps_of(cg.open_run(store)), maps_of(local / "run.zarr"))
    assert same_bytes(
        cg.contrast(cg.open_fit(fit_store), "a - b").compute(), maps_of(local / "run.zarr")
    )


def test_store_objects__that_cannot_be_reached_are_told_in_a_line(local: Path) -> None:
    pytest.importorskip("s3fs")
    options = {
        "key": "key",
        "secret": "secret",
        "endpoint_url": "http://127.0.0.1:9",
        "config_kwargs": {"retries": {"max_attempts": 0}, "connect_timeout": 1},
    }
    store = zarr.storage.FsspecStore.from_url("s3://bucket/far.zarr", storage_options=options)
    for call in (
        lambda: cg.open_run(store),
        lambda: cg.convert(local / "run.nii", store, progress=False),
    ):
        with pytest.raises(StoreError) as caught:
            call()
        one_line(caught.value, "bucket/far.zarr", "cannot be reached")


def test_convert__onto_its_source_is_refused(s3: S3, local: Path) -> None:
    content = (local / "run.nii.gz").read_bytes()
    url = s3.put("same.nii.gz", content)
    with pytest.raises(StoreError) as caught:
        cg.convert(url, url, storage_options=s3.options, overwrite=True, progress=False)
    one_line(caught.value, url, "are the same")
    assert s3.contents("same.nii.gz") == {"": content}


@pytest.mark.parametrize("name", ["run.nii.gz", "run.nii"])
def test_engine__opens_urls(s3: S3, local: Path, name: str) -> None:
    url = s3.put(f"engine/{name}", (local / name).read_bytes())
    found = xr.open_dataset(url, engine="nifti", storage_options=s3.options)["bold"]
    expected = cg.open_run(url, storage_options=s3.options)
    xr.testing.assert_identical(found, expected)
    assert np.array_equal(found.isel(time=[3, 17]).to_numpy(), expected[..., [3, 17]].to_numpy())
    lazy = xr.open_dataset(url, engine="nifti", storage_options=s3.options, chunks={})["bold"]
    assert np.array_equal(lazy.to_numpy(), truth_of(local / name))


@pytest.mark.parametrize("suffix", [".img", ".hdr", ".nii.bz2"])
def test_other_files_behind_urls__are_refused(suffix: str) -> None:
    with pytest.raises(ImageError) as caught:
        cg.open_run(f"memory://other/run{suffix}")
    one_line(caught.value, f"memory://other/run{suffix}", "download it first")


def test_extension_longer_than_what_is_fetched_first__is_kept(tmp_path: Path) -> None:
    import nibabel as nib

    image = nib.Nifti1Image(make_data(), np.eye(4))
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"x" * 200_000))
    for name in ("run.nii", "run.nii.gz"):
        nib.save(image, tmp_path / name)
        with fsspec.open(f"memory://extended/{name}", "wb") as file:
            file.write((tmp_path / name).read_bytes())
        run = open_source(f"memory://extended/{name}")
        assert run.header == open_source(tmp_path / name).header
        assert run.shape == SHAPE
        assert np.array_equal(run.read(range(6), 0, 30).T, make_data())
