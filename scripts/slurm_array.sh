#!/bin/bash
# A study as a job array: no scheduler of chunkglm's own, every job does its part of the subjects.
#
#   bash scripts/slurm_array.sh TABLE MODEL OUT [PARTS]
#
# submits PARTS jobs (100 unless told) of one core each and, once all of them have ended, the job
# that completes OUT and names what is missing. Given again, it does only what is missing, changed
# or failed. Change the lines of resources to suit the cluster; OUT must lie where all nodes see it.
set -euo pipefail

if [ -z "${SLURM_ARRAY_TASK_ID:-}" ] && [ "${1:-}" != finalise ]; then
    if [ $# -lt 3 ]; then
        echo "usage: $0 TABLE MODEL OUT [PARTS]" >&2
        exit 2
    fi
    parts=${4:-100}
    mkdir -p "$3/logs"
    logs="$(cd "$3" && pwd)/logs"
    array=$(sbatch --parsable --job-name=chunkglm --array="0-$((parts - 1))" \
        --cpus-per-task=1 --mem=2G --time=04:00:00 --requeue --output="$logs/slurm-%A-%a.txt" \
        "$0" "$1" "$2" "$3" "$parts")
    # afterany: a part with a bad subject exits with 3, and the others are completed all the same.
    sbatch --job-name=chunkglm-finalise --dependency="afterany:${array%%;*}" \
        --cpus-per-task=2 --mem=4G --time=01:00:00 --output="$logs/slurm-%j-finalise.txt" \
        "$0" finalise "$1" "$2" "$3"
    exit
fi

if [ "${1:-}" = finalise ]; then
    exec chunkglm finalise "$2" "$3" "$4"
fi
exec chunkglm run "$1" "$2" "$3" --partition "$SLURM_ARRAY_TASK_ID/$4" \
    --threads "${SLURM_CPUS_PER_TASK:-1}" --quiet \
    --memory-limit "${SLURM_MEM_PER_NODE:-2000}MB"
