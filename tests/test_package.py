"""The package as a whole: what it imports and when, what it exports, what it never does."""

import ast
import inspect
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info

import chunkglm
from chunkglm import errors
from chunkglm.lazy.blas import one_blas_thread

ROOT = Path(chunkglm.__file__).parent
SOURCES = sorted(ROOT.rglob("*.py"))


def imported_by(statement: str) -> set[str]:
    """Top-level packages in a fresh process after a statement."""
    return {name.split(".")[0] for name in modules_after(statement)}


def modules_after(statement: str) -> set[str]:
    """All modules in a fresh process after a statement."""
    code = f"{statement}\nimport sys; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_import_chunkglm__imports_nothing_heavy() -> None:
    found = imported_by("import chunkglm")
    assert "chunkglm" in found
    assert not found & {
        "nilearn", "matplotlib", "distributed", "nibabel", "zarr", "numpy", "scipy", "pandas",
        "xarray", "dask", "sklearn", "pooch",
    }  # fmt: skip


def test_import_glm__leaves_out_what_only_some_work_needs() -> None:
    found = imported_by("from chunkglm.glm import contrast, fit, fixed_effects, open_run, save")
    assert {"nibabel", "xarray", "dask"} <= found
    assert not found & {"nilearn", "matplotlib", "distributed", "sklearn", "zarr", "pooch"}


def test_two_runs_to_saved_maps__load_nothing_that_they_do_not_use(tmp_path: Path) -> None:
    from helpers_lazy import make_design, write_run

    path = write_run(tmp_path / "run.nii.gz")
    make_design().to_csv(tmp_path / "design.csv", index=False)
    found = modules_after(
        "import chunkglm as cg\n"
        f"fits = [cg.fit(cg.open_run({str(path)!r}), {str(tmp_path / 'design.csv')!r})] * 2\n"
        "maps = cg.fixed_effects([cg.contrast(fit, 'a - b') for fit in fits])\n"
        f"cg.save(maps, {str(tmp_path / 'out')!r}, prefix='p')"
    )
    # dask loads distributed to look for a client; there can be none while it is not imported.
    assert not {name.split(".")[0] for name in found} & {
        "nilearn", "matplotlib", "sklearn", "zarr", "pooch", "distributed", "tornado",
    }  # fmt: skip
    # Not by dask or nibabel either; for us it smooths maps alone.
    assert "scipy.ndimage" not in found
    mine = {name.removeprefix("chunkglm.") for name in found if name.startswith("chunkglm.")}
    assert "glm.maps" in mine
    assert not mine & {
        "glm.joint", "glm.opened", "glm.planning", "glm.thresholding", "io.store", "io.export",
        "kernels.clusters", "lazy.multiple", "plotting.maps", "plotting.runs", "study",
    }  # fmt: skip


@pytest.mark.parametrize("state", ["enable", "disable"])
def test_names_imported_when_used__leave_the_collector_as_it_was(state: str) -> None:
    code = (
        f"import gc; gc.{state}(); import chunkglm as cg; cg.fit, cg.AR, cg.plotting\n"
        "try: cg.no_such_name\nexcept AttributeError as error: print(error)\n"
        "print(gc.isenabled())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    told = "module 'chunkglm' has no attribute 'no_such_name'"
    assert done.stdout.splitlines() == [told, str(state == "enable")]


def objects_young_and_frozen(before: str) -> tuple[int, int]:
    """In a fresh process after xarray, dask and chunkglm were loaded by a name's first use."""
    code = (
        f"import gc; {before}; import chunkglm as cg; cg.fit\n"
        "young = [x for generation in (0, 1) for x in gc.get_objects(generation)]\n"
        "print(len(young), gc.get_freeze_count())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    young, frozen = map(int, done.stdout.split())
    return young, frozen


def test_names_imported_when_used__are_old_at_once_and_what_a_user_froze_stays_frozen() -> None:
    # Some 100,000 objects come of the imports; as young ones they would be looked through at once.
    assert objects_young_and_frozen("pass") == (pytest.approx(0, abs=5_000), 0)
    young, frozen = objects_young_and_frozen("gc.freeze()")
    assert young > 50_000
    assert frozen > 1_000


def told_at_exit(first: str) -> list[str]:
    """Lines that a fresh process prints when it has come to its end: of looks, and of finalising.

    The interpreter's first look only is one that tells callbacks of itself.
    """
    code = (
        f"{first}\nimport gc\n"
        "class Told:\n"
        "    def __init__(self, name):\n"
        "        self.cycle, self.file = self, open(f'{name}.txt', 'w')\n"
        "        self.file.write(name)\n"
        "    def __del__(self): print('finalised', self.file.name)\n"
        "gc.callbacks.append(print)\n"
        "alive, dropped = Told('alive'), Told('dropped')\n"
        "gc.collect()\n"  # both are old
        "del dropped; print('end')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    return lines[lines.index("end") + 1 :]


def test_exit__looks_for_cycles_once_less_and_still_finalises_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    both = {"finalised alive.txt", "finalised dropped.txt"}
    assert any(line.startswith("start") for line in told_at_exit("pass"))
    assert set(told_at_exit("import chunkglm as cg; cg.ChunkglmError")) == both
    for name in ("alive", "dropped"):
        assert Path(f"{name}.txt").read_text() == name


def test_all__names_resolve_and_are_documented() -> None:
    assert chunkglm.__all__ == sorted(chunkglm.__all__, key=str)
    for name in chunkglm.__all__:
        found = getattr(chunkglm, name)
        assert inspect.getdoc(found), name
        assert found.__name__.removeprefix("chunkglm.") == name  # modules too
    assert set(chunkglm.__all__) <= set(dir(chunkglm))
    with pytest.raises(AttributeError, match="has no attribute 'fitt'"):
        chunkglm.fitt  # noqa: B018


def test_all__functions_document_their_parameters_and_what_they_return() -> None:
    for name in chunkglm.__all__:
        found = getattr(chunkglm, name)
        if not inspect.isfunction(found) or not found.__module__.startswith("chunkglm.glm"):
            continue
        text = inspect.getdoc(found) or ""
        for parameter in inspect.signature(found).parameters:
            assert parameter in text, f"{name}: {parameter}"
        if inspect.signature(found).return_annotation not in (None, "None"):
            assert "Returns\n-------" in text, name


def error_kinds() -> list[Any]:
    kinds = filter(inspect.isclass, vars(errors).values())
    return [kind for kind in kinds if kind.__module__ == errors.__name__]


@pytest.mark.parametrize("kind", error_kinds())
def test_errors__arrive_from_workers_as_they_were(kind: Any) -> None:
    assert issubclass(kind, chunkglm.ChunkglmError)
    assert str(pickle.loads(pickle.dumps(kind("run.nii: broken")))) == "run.nii: broken"
    # As distributed makes them anew, with their tracebacks.
    assert isinstance(kind.__new__(kind, "run.nii: broken"), kind)


# --- what it never does -----------------------------------------------------------------------

FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_MODULES = {"pickle", "cloudpickle", "marshal", "shelve", "dill", "yaml", "joblib"}


def offences(tree: ast.AST) -> list[str]:
    """Where source evaluates text or unpickles data."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = node.func
            if isinstance(function, ast.Name) and function.id in FORBIDDEN_CALLS:
                found.append(function.id)
            if isinstance(function, ast.Attribute) and function.attr in ("eval", "read_pickle"):
                found.append(function.attr)
            for keyword in node.keywords:
                safe = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
                if keyword.arg == "allow_pickle" and not safe:
                    found.append("allow_pickle")
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        found += [m for m in modules if m.split(".")[0] in FORBIDDEN_MODULES]
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_source__evaluates_no_text_and_unpickles_nothing(path: Path) -> None:
    assert offences(ast.parse(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "text",
    [
        "eval('1')",
        "exec(code)",
        "frame.eval(text)",
        "import pickle",
        "from pickle import load",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=flag)",
        "pd.read_pickle(path)",
        "import yaml",
    ],
)
def test_offences__are_found(text: str) -> None:
    assert offences(ast.parse(text))


def test_source__computes_only_when_asked() -> None:
    """`.compute()` where users expect it: `load`, `save`, `clusters`, and the faces above."""
    places = set()
    for path in SOURCES:
        name = str(path.relative_to(ROOT))
        if name.split("/")[0] in (
            "cli",
            "nilearn",
            "report",
            "reporting",
            "plotting",
            "datasets",
            "study",
        ):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in ("compute", "load", "persist")
                and not (isinstance(node.func.value, ast.Name) and node.func.value.id == "np")
                and not (isinstance(node.func.value, ast.Name) and node.func.value.id == "nib")
            ):
                places.add(name)
    homes = ("fitted", "joint", "maps", "stored", "thresholding")  # stored: what is small
    assert places <= {f"glm/{home}.py" for home in homes}


# --- BLAS threads -----------------------------------------------------------------------------


def blas_threads() -> list[int]:
    return [info["num_threads"] for info in threadpool_info() if info["user_api"] == "blas"]


@pytest.fixture
def several_threads() -> Any:
    """Allow BLAS three threads, whatever the machine has."""
    from threadpoolctl import threadpool_limits

    np.ones((2, 2)) @ np.ones((2, 2))
    with threadpool_limits(3, user_api="blas"):
        before = blas_threads()
        if not before or set(before) == {1}:
            pytest.skip("this BLAS has one thread")
        yield before


def test_one_blas_thread__nests_and_restores(several_threads: list[int]) -> None:
    with one_blas_thread():
        assert set(blas_threads()) == {1}
        with one_blas_thread():
            assert set(blas_threads()) == {1}
        assert set(blas_threads()) == {1}
    assert blas_threads() == several_threads


def test_one_blas_thread__restores_after_an_error(several_threads: list[int]) -> None:
    with pytest.raises(ZeroDivisionError), one_blas_thread():
        raise ZeroDivisionError
    assert blas_threads() == several_threads


def test_one_blas_thread__works_in_any_thread_whoever_was_first(several_threads: list[int]) -> None:
    found = []

    def work() -> None:
        with one_blas_thread():
            found.append(set(blas_threads()))
        found.append(blas_threads())

    with one_blas_thread():
        pass
    for _ in range(2):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join(30)
    assert found == [{1}, several_threads] * 2


def test_one_blas_thread__is_lifted_by_a_thread_that_did_not_set_it(
    several_threads: list[int],
) -> None:
    entered, leave, done = (threading.Event() for _ in range(3))

    def first() -> None:
        with one_blas_thread():
            entered.set()
            leave.wait(30)
        done.wait(30)  # alive until the limit is lifted by the other

    thread = threading.Thread(target=first)
    thread.start()
    entered.wait(30)
    with one_blas_thread():
        leave.set()
        while thread_is_inside():
            threading.Event().wait(0.01)
        assert set(blas_threads()) == {1}
    lifted = blas_threads()
    done.set()
    thread.join(30)
    assert lifted == several_threads


def thread_is_inside() -> bool:
    import chunkglm.lazy.blas

    return chunkglm.lazy.blas._inside > 1


def test_one_blas_thread__holds_until_the_last_of_several_threads_is_out(
    several_threads: list[int],
) -> None:
    n_threads, wrong = 8, []
    together = threading.Barrier(n_threads, timeout=30)

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        together.wait()
        for _ in range(30):
            with one_blas_thread():
                if set(blas_threads()) != {1}:
                    wrong.append(blas_threads())
                threading.Event().wait(float(rng.uniform(0, 0.003)))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []
    assert blas_threads() == several_threads
