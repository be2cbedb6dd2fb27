#!/usr/bin/env bash
# One machine or several with torchrun: every machine runs this script with the same arguments.
#
#   NODES=2 RANKS_PER_NODE=4 HEAD=node01 launch/torchrun.sh my.yaml data.path=/shared/e2e --out /shared/runs/one
#
# RESTARTS=3 starts all ranks again when one is lost: with checkpoint.every=N resume=auto they go on from the last
# checkpoint. A SIGTERM stops them whole; torchrun gives them 30 s (--shutdown-timeout).
# COMMAND=doctor prints what every rank sees, and how fast they reach each other, instead of training.
# Ranks 0.. are clients, then servers, the last rank is the aggregator: NODES x RANKS_PER_NODE must be
# roles.client_ranks + roles.server_ranks * roles.server_shards + 1. The run directory must be on a file system that all machines share.
set -euo pipefail
nodes=${NODES:-1} head=${HEAD:-localhost} port=${PORT:-29400}
ranks=${RANKS_PER_NODE:?how many ranks on each machine}
if [ "$nodes" = 1 ]; then
    meet=(--standalone)
else
    meet=(--rdzv-backend=c10d --rdzv-endpoint="$head:$port" --rdzv-id="${RUN_ID:-splitcom}")
fi
exec torchrun --nnodes="$nodes" --nproc-per-node="$ranks" "${meet[@]}" --max-restarts="${RESTARTS:-0}" -m splitcom_dist "${COMMAND:-train}" "$@"
