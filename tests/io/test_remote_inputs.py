"""Designs, events and masks behind URLs: the fit is that of the local files."""

import tempfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from helpers_lazy import AFFINE, make_design, make_mask, one_line, same_bytes, write_run
from helpers_s3 import S3

import chunkglm as cg
from chunkglm.errors import ChunkglmError, DesignError, ImageError, MaskError

fsspec = pytest.importorskip("fsspec")

EVENTS = "onset\tduration\ttrial_type\n2\t4\ta\n14\t4\tb\n30\t6\ta\n44\t4\tb\n"


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """A run and what is needed to fit it, in files."""
    write_run(tmp_path / "run.nii.gz")
    design = make_design()
    design.to_csv(tmp_path / "design.csv", index=False)
    design.to_csv(tmp_path / "design.tsv", index=False, sep="\t")
    np.save(tmp_path / "design.npy", design.to_numpy())
    np.savez(tmp_path / "design.npz", X=design.to_numpy(), names=list(design))
    (tmp_path / "events.tsv").write_text(EVENTS)
    for name in ("mask.nii", "mask.nii.gz"):
        nib.save(nib.Nifti1Image(make_mask().astype(np.uint8), AFFINE), tmp_path / name)
    np.savetxt(tmp_path / "keep.txt", np.arange(30) % 9 > 0, fmt="%d")
    return tmp_path


@pytest.fixture(params=["s3", "memory"])
def there(request: Any, local: Path) -> tuple[str, dict[str, Any]]:
    """The same files behind URLs, and the options for these."""
    url, options = f"memory://{local.name}", {}
    if request.param == "s3":
        s3: S3 = request.getfixturevalue("s3")
        url, options = s3.url(local.name), s3.options
    for path in local.iterdir():
        found, inside = fsspec.core.url_to_fs(f"{url}/{path.name}", **options)
        found.pipe_file(inside, path.read_bytes())
    return url, options


@pytest.mark.parametrize("design", ["design.csv", "design.tsv", "design.npy", "design.npz"])
@pytest.mark.parametrize("mask", ["mask.nii", "mask.nii.gz"])
def test_fit__of_files_behind_urls_is_that_of_local_ones(
    local: Path,
    there: tuple[str, dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    design: str,
    mask: str,
) -> None:
    url, options = there
    scratch = local / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    fitted = cg.fit(
        f"{url}/run.nii.gz", f"{url}/{design}", mask=f"{url}/{mask}", storage_options=options
    )
    assert list(scratch.iterdir()) == []
    expected = cg.fit(local / "run.nii.gz", local / design, mask=local / mask)
    weights = [1, -1, 0, 0]
    assert same_bytes(
        cg.contrast(fitted, weights).compute(), cg.contrast(expected, weights).compute()
    )
    assert fitted.design.source == f"{url}/{design}"
    assert fitted.design.names == expected.design.names


def test_fit__takes_events_and_a_sample_mask_behind_urls(
    local: Path, there: tuple[str, dict[str, Any]]
) -> None:
    url, options = there
    found, expected = (
        cg.fit(local / "run.nii.gz", f"{place}/events.tsv", sample_mask=f"{place}/keep.txt", **how)
        for place, how in ((url, {"storage_options": options}), (local, {}))
    )
    assert same_bytes(
        cg.contrast(found, "a - b").compute(), cg.contrast(expected, "a - b").compute()
    )
    assert found.design.source == f"{url}/events.tsv"


def test_errors__name_the_url(local: Path, there: tuple[str, dict[str, Any]]) -> None:
    url, options = there
    run, found = local / "run.nii.gz", fsspec.core.url_to_fs(url, **options)[0]
    for name, content in (
        ("short.csv", b"a,b\n1,0\n0,1\n1,1\n"),
        ("wrong.csv", b"a,b\n" + b"1,x\n" * 30),
        ("design.xls", b"?"),
        ("grid.nii", (local / "run.nii.gz").read_bytes()),
        ("broken.nii.gz", (local / "mask.nii.gz").read_bytes()[:-12]),
    ):
        found.pipe_file(fsspec.core.url_to_fs(f"{url}/{name}", **options)[1], content)
    cases: list[tuple[Any, Any, type[ChunkglmError]]] = [
        ("short.csv", None, DesignError),
        ("wrong.csv", None, DesignError),
        ("design.xls", None, DesignError),
        ("none.csv", None, DesignError),
        ("design.csv", "none.nii.gz", MaskError),
        ("design.csv", "broken.nii.gz", ImageError),
    ]
    for design, mask, kind in cases:
        with pytest.raises(kind) as caught:
            cg.fit(run, f"{url}/{design}", mask=mask and f"{url}/{mask}", storage_options=options)
        message = one_line(caught.value, f"{url}/{mask or design}")
        assert tempfile.gettempdir() not in message.replace(str(local), "")


def test_warnings__name_the_url(local: Path, there: tuple[str, dict[str, Any]]) -> None:
    url, options = there
    make_design().to_csv(local / "indexed.csv")  # with row numbers
    found, inside = fsspec.core.url_to_fs(f"{url}/indexed.csv", **options)
    found.pipe_file(inside, (local / "indexed.csv").read_bytes())
    with pytest.warns(UserWarning, match=f"{url}/indexed.csv"):
        cg.fit(local / "run.nii.gz", f"{url}/indexed.csv", storage_options=options)


def test_web__mask_and_design_with_queries(local: Path) -> None:
    pytest.importorskip("aiohttp")
    import functools
    import http.server
    import threading

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(local))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        found = cg.fit(
            local / "run.nii.gz", f"{url}/design.csv?version=2", mask=f"{url}/mask.nii.gz?raw=1"
        )
        server.shutdown()
    expected = cg.fit(local / "run.nii.gz", local / "design.csv", mask=local / "mask.nii.gz")
    assert same_bytes(cg.contrast(found, "a").compute(), cg.contrast(expected, "a").compute())


def test_fit__of_a_local_run_needs_no_options(local: Path) -> None:
    # Options are for the URLs; a local store beside them is no error.
    store = cg.convert(local / "run.nii.gz", local / "run.zarr", progress=False)
    with fsspec.open(f"memory://{local.name}/d.csv", "wb") as file:
        file.write((local / "design.csv").read_bytes())
    cg.fit(store, f"memory://{local.name}/d.csv", storage_options={"skip_instance_cache": True})
