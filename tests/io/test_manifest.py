"""Tampering: whatever was changed in a store is named by verify, and refused when it is read."""

import json
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from helpers_lazy import SHAPE, make_design, make_mask, one_line, write_run
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore, MemoryStore

import chunkglm as cg
from chunkglm.errors import StoreError
from chunkglm.io.checked import CheckedStore
from chunkglm.io.manifest import NAME, Manifest, RecordingStore, put, read_manifest
from chunkglm.io.nifti import open_nifti
from chunkglm.io.place import place_of
from chunkglm.io.store import write_store

# Of each kind of store: the array with a manifest, its middle chunk, and another chunk.
PARTS = {
    "run": ("bold", "bold/c/0/0/1/1", "bold/c/0/0/2/2"),
    "fit": ("moments", "moments/c/0/0/0", "mask/c/0/0/0"),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    source = write_run(folder / "source.nii")
    run = open_nifti(source)
    write_store(
        run, place_of(folder / "run"), (5, 4, 2, 10), overwrite=False, advance=lambda _: None
    )
    cg.fit(source, make_design(), mask=make_mask()).save(folder / "fit")
    return folder


def flip(content: bytes, share: float) -> bytes:
    out = bytearray(content)
    out[int(len(out) * share)] ^= 0x10
    return bytes(out)


CHUNK_DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "zeroed": lambda c: bytes(len(c)),
    "emptied": lambda c: b"",
    "a bit of its header flipped": lambda c: flip(c, 0),
    "a bit flipped": lambda c: flip(c, 0.6),
    "its last bit flipped": lambda c: c[:-1] + bytes([c[-1] ^ 1]),
    "truncated": lambda c: c[:-3],
    "lengthened": lambda c: c + b"\0",
}


def compute(store: Path) -> Any:
    """Read all that a store holds."""
    if store.name == "fit":
        return cg.contrast(cg.open_fit(store), "a").compute()
    return cg.open_run(store).to_numpy()


def refused_and_named(store: Path, key: str, *, on_opening: bool = False) -> None:
    """Check that reading is refused, that `verify` names the key, and what the shell sees."""
    found = cg.verify(store)
    assert len(found) >= 1
    assert any(line.startswith(key) for line in found), found
    assert not any("\n" in line for line in found)
    opening = cg.open_fit if store.name == "fit" else cg.open_run
    with pytest.raises(StoreError) as caught:
        (opening if on_opening else compute)(store)
    one_line(caught.value, store, key)


@pytest.fixture(params=["run", "fit"])
def store(request: pytest.FixtureRequest, whole: Path, tmp_path: Path) -> Path:
    """A store of the test's own, to damage."""
    path = tmp_path / str(request.param)
    shutil.copytree(whole / path.name, path)
    return path


def test_verify__finds_nothing_wrong_with_a_whole_store(store: Path) -> None:
    assert cg.verify(store) == []
    compute(store)


@pytest.mark.parametrize("damage", list(CHUNK_DAMAGE))
def test_chunk__that_was_damaged_is_named_and_refused(store: Path, damage: str) -> None:
    chunk = PARTS[store.name][1]
    before = (store / chunk).read_bytes()
    (store / chunk).write_bytes(CHUNK_DAMAGE[damage](before))
    refused_and_named(store, chunk)
    (store / chunk).write_bytes(before)
    assert cg.verify(store) == []


def test_every_byte_of_a_chunk__is_guarded(whole: Path, tmp_path: Path) -> None:
    store, chunk = tmp_path / "run", PARTS["run"][1]
    shutil.copytree(whole / "run", store)
    before = (store / chunk).read_bytes()
    run = cg.open_run(store).isel(z=slice(2, 4), time=slice(10, 20))
    for share in np.linspace(0, 1, 40, endpoint=False):
        (store / chunk).write_bytes(flip(before, float(share)))
        with pytest.raises(StoreError):
            run.compute()


def test_chunks__that_were_lost_are_refused_on_opening(store: Path) -> None:
    _, chunk, other = PARTS[store.name]
    (store / chunk).unlink()
    refused_and_named(store, chunk, on_opening=True)
    (store / other).unlink()
    assert {line.split()[0] for line in cg.verify(store)} == {chunk, other}


def test_chunks__that_were_swapped_are_named_and_refused(whole: Path, tmp_path: Path) -> None:
    store = tmp_path / "run"
    shutil.copytree(whole / "run", store)
    one, two = (store / key for key in PARTS["run"][1:])
    a, b = one.read_bytes(), two.read_bytes()
    one.write_bytes(b)
    two.write_bytes(a)
    assert {line.split()[0] for line in cg.verify(store)} == set(PARTS["run"][1:])
    run = cg.open_run(store)
    # Each in its place: a chunk is known by its key, not only by its content.
    for planes, volumes, key in ((2, 10, PARTS["run"][1]), (4, 20, PARTS["run"][2])):
        with pytest.raises(StoreError) as caught:
            run.isel(z=planes, time=volumes).compute()
        one_line(caught.value, store, key)


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found, indent=3))


def test_metadata__that_were_edited_are_named_and_refused_on_opening(store: Path) -> None:
    host = PARTS[store.name][0]
    for key, change in {
        "zarr.json": lambda j: j["attributes"].update(written="0"),
        f"{host}/zarr.json": lambda j: j["attributes"].update(scale_factor=2.0),
    }.items():
        before = (store / key).read_bytes()
        edit(store / key, change)
        refused_and_named(store, key, on_opening=True)
        (store / key).write_bytes(before)
    # Even edits that leave the sense as it is: what was written is known by its bytes.
    edit(store / "zarr.json", lambda j: None)
    refused_and_named(store, "zarr.json", on_opening=True)


def test_metadata__that_were_lost_are_named_and_refused_on_opening(store: Path) -> None:
    for key in ("zarr.json", f"{PARTS[store.name][0]}/zarr.json"):
        before = (store / key).read_bytes()
        (store / key).unlink()
        assert any(line.startswith(key) for line in cg.verify(store))
        with pytest.raises(cg.ChunkglmError) as caught:
            (cg.open_fit if store.name == "fit" else cg.open_run)(store)
        one_line(caught.value, store)
        (store / key).write_bytes(before)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: b"",
        lambda c: b"not JSON",
        lambda c: b"[]",
        lambda c: b"{}",
        lambda c: b'"manifest"',
        lambda c: b"\xff\xfe\x00",
        lambda c: c[:-5],
        lambda c: c.replace(b"[", b"[1", 1),
        lambda c: c.replace(b'"format": 1', b'"format": 2'),
        lambda c: flip(c, 0.5),
    ],
)
def test_manifest__that_was_edited_is_named_and_refused(
    store: Path, change: Callable[[bytes], bytes]
) -> None:
    key = f"{PARTS[store.name][0]}/{NAME}"
    (store / key).write_bytes(change((store / key).read_bytes()))
    refused_and_named(store, key, on_opening=True)


def test_manifest__of_another_format_is_refused_with_both_numbers(store: Path) -> None:
    key = f"{PARTS[store.name][0]}/{NAME}"
    body = {"format": 2, "keys": {}}
    signed = {"manifest": body, "crc32": zlib.crc32(json.dumps(body).encode())}
    (store / key).write_text(json.dumps(signed))
    with pytest.raises(StoreError) as caught:
        compute(store)
    one_line(caught.value, key, "its format is 2 and must be 1")


def test_manifest__that_was_deleted_or_is_another_store_s_is_told(store: Path, whole: Path) -> None:
    host = PARTS[store.name][0]
    (store / host / NAME).unlink()
    assert NAME in cg.verify(store)[0]
    with pytest.raises(StoreError) as caught:
        compute(store)
    one_line(caught.value, store, "incomplete", NAME)
    other = "fit" if store.name == "run" else "run"
    shutil.copy(whole / other / PARTS[other][0] / NAME, store / host / NAME)
    assert len(cg.verify(store)) > 3
    with pytest.raises(StoreError):
        compute(store)


@pytest.mark.parametrize(
    "key", ["{host}/c/9", "{host}/zarr.json.bak", "notes.txt", "bold/" + NAME, "reference/" + NAME]
)
def test_keys__that_do_not_belong_are_named(store: Path, key: str) -> None:
    host = PARTS[store.name][0]
    key = key.format(host=host)
    if key == f"{host}/{NAME}":
        return
    (store / key).parent.mkdir(exist_ok=True)
    (store / key).write_bytes(b"foreign")
    found = cg.verify(store)
    # A second manifest may be found first, and is then no manifest of this store.
    assert any(line.startswith(key) for line in found)


def test_array__that_does_not_belong_is_never_read(store: Path) -> None:
    zarr.open_group(LocalStore(store), mode="a").create_array("head2", data=np.ones(3))
    assert [line.split()[0] for line in cg.verify(store)] == ["head2/c/0", "head2/zarr.json"]
    compute(store)
    if store.name == "fit":
        assert "head2" not in cg.open_fit(store).dataset


def test_verify__names_what_cannot_be_read(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Path.read_bytes

    def failing(self: Path) -> bytes:
        if self.as_posix().endswith(PARTS["run"][1]):
            raise OSError(5, "Input/output error")
        return original(self)

    run = cg.open_run(whole / "run")
    monkeypatch.setattr(Path, "read_bytes", failing)
    assert cg.verify(whole / "run") == [f"{PARTS['run'][1]} cannot be read (Input/output error)"]
    with pytest.raises(StoreError) as caught:
        run.to_numpy()
    one_line(caught.value, whole / "run", PARTS["run"][1], "Input/output error")


def test_verify__refuses_what_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("text")
    for name in ("none", "folder", "file"):
        with pytest.raises(StoreError) as caught:
            cg.verify(tmp_path / name)
        one_line(caught.value, tmp_path / name)


def test_command__exits_with_1_and_a_line_for_each_key(whole: Path, tmp_path: Path) -> None:
    store = tmp_path / "run"
    shutil.copytree(whole / "run", store)
    (store / "zarr.json").write_text("{}")
    (store / "bold/c/0/0/0/0").unlink()
    code = "import sys\nfrom chunkglm.cli import main\nfor a in sys.argv[1:]:\n" + (
        "    try: main(['verify', a], standalone_mode=False)\n"
        "    except SystemExit as end: print('code', end.code)"
    )
    command = [sys.executable, "-c", code, str(store), str(whole / "run"), str(tmp_path / "none")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:2]] == ["zarr.json", "bold/c/0/0/0/0"] or [
        line.split()[0] for line in lines[:2]
    ] == ["bold/c/0/0/0/0", "zarr.json"]
    assert lines[2:] == ["code 1", f"{whole / 'run'}: as it was written", "code 2"]
    assert done.stderr.startswith(f"chunkglm: error: {tmp_path / 'none'}: no such store")


# --- the stores behind it ---------------------------------------------------------------------


def test_checked_store__gives_parts_of_keys_that_were_checked_whole() -> None:
    store = MemoryStore()
    recorded = RecordingStore(store)
    put(recorded, "a/c/0", b"0123456789")
    checked = CheckedStore(store, Manifest(recorded.entries, "a/" + NAME), "here")
    prototype = default_buffer_prototype()

    def read(part: Any) -> bytes:
        found = sync(checked.get("a/c/0", prototype, part))
        (again,) = sync(checked.get_partial_values(prototype, [("a/c/0", part)]))
        assert found is not None
        assert again is not None
        assert found.to_bytes() == again.to_bytes()
        return found.to_bytes()

    assert read(None) == b"0123456789"
    assert read(RangeByteRequest(2, 5)) == b"234"
    assert read(OffsetByteRequest(7)) == b"789"
    assert read(SuffixByteRequest(4)) == b"6789"
    put(store, "a/c/0", b"012345678X")
    for part in (None, RangeByteRequest(2, 5)):
        with pytest.raises(StoreError, match="here: a/c/0 is not what was written"):
            read(part)
    # What was never written is absent, and what someone else put there is no part of the store.
    assert sync(checked.get("b/zarr.json", prototype)) is None
    put(store, "b/zarr.json", b"{}")
    with pytest.raises(StoreError, match=r"b/zarr\.json does not belong"):
        sync(checked.get("b/zarr.json", prototype))


def test_recording_store__notes_what_is_there_in_the_end() -> None:
    store = RecordingStore(MemoryStore())
    put(store, "a", b"one")
    put(store, "a", b"other")
    put(store, "b", b"gone")
    sync(store.delete("b"))
    value = default_buffer_prototype().buffer.from_bytes(b"first")
    sync(store.set_if_not_exists("c", value))
    sync(store.set_if_not_exists("a", value))
    sync(store._set_many([("d", value)]))
    put(store.with_read_only(False), "e", b"")
    expected = {"a": b"other", "c": b"first", "d": b"first", "e": b""}
    assert store.entries == {k: (len(v), zlib.crc32(v)) for k, v in expected.items()}


def test_manifest__covers_every_file(store: Path) -> None:
    manifest = read_manifest(LocalStore(store, read_only=True), "here")
    files = {str(p.relative_to(store)) for p in store.rglob("*") if p.is_file()}
    assert files == {*manifest.entries, manifest.key}
    if store.name == "run":
        n_chunks = 3 * 3
        assert len(files) == n_chunks + 5
        assert SHAPE == (5, 4, 6, 30)
