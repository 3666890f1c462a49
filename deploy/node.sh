#!/usr/bin/env bash
# One node's part of a job of several nodes. Every node of a job runs this script, in a clone of the project:
#
#   deploy/node.sh INDEX NODES HOST:PORT [ARGUMENT...]
#
# INDEX      of this node: 0 for the first, which runs the DVC stages; each other one joins their training
# NODES      how many nodes the job has
# HOST:PORT  of the first node, as the others reach it; PORT + 1 must be free and open, too
# ARGUMENT   of `dvc exp run` on the first node, such as `-S epochs=2 evaluate`; by default `evaluate`: what its result
#            needs runs, and training and evaluation share all nodes
# M2DET_CACHE in the environment: where this node has the packed cache, if not in data/cache of the clone
set -euo pipefail
cd "$(dirname "$0")/.."
index=$1 nodes=$2 rendezvous=$3
shift 3

# A scheduler's own: torchrun takes PET_* for its options, and a process that finds RANK for one that torchrun started.
unset "${!PET_@}" RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT

if [ "$index" = 0 ]; then
  # --temp: the settings of this job stay out of the clone's params.yaml, and its result is an experiment
  part=(dvc exp run --temp -S "run.nodes=$nodes" -S "run.rendezvous=$rendezvous" "${@:-evaluate}")
else
  part=(python -m m2det join "$rendezvous" --cache "${M2DET_CACHE:-data/cache}" --stay)
fi

# In a process group of its own, to which signals are handed on: DVC tells its stage nothing, and PID 1 of a container
# gets no signal that it has no handler for.
set -m
"${part[@]}" &
group=$!
trap 'kill -TERM -- "-$group" 2> /dev/null || true' TERM INT HUP
code=0
wait "$group" || code=$?
while kill -0 -- "-$group" 2> /dev/null; do # a training saves its last step
  sleep 0.2
done
exit "$code"
