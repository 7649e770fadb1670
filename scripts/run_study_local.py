"""Simulate a small study, do it on worker processes of this machine, and show what came out.

    python scripts/run_study_local.py FOLDER --subjects 8 --workers 2

With a table and a model of your own it is as short as the last lines of `main`, or on the command
line: chunkglm run TABLE MODEL OUT --workers 2
"""

import argparse
from pathlib import Path

import xarray as xr
from make_study import make_study

import chunkglm as cg
from chunkglm.study.engines import local_cluster


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--subjects", type=int, default=8)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    table, model = args.folder / "study" / "runs.csv", args.folder / "study" / "model.toml"
    if not table.exists():
        make_study(args.folder / "study", args.subjects, args.runs, (32, 32, 20, 120))
    out = args.folder / "out"
    with local_cluster(args.workers) as client:
        print(cg.run_study(table, model, out, client=client))
    group = xr.open_zarr(out / "group.zarr", consolidated=False)
    effect = group["effect_size"].sel(contrast="BminusA").mean("subject")
    print(f"largest mean effect of B - A over subjects: {float(effect.max()):.2f} %")


if __name__ == "__main__":  # worker processes import this file
    main()
