#!/usr/bin/env bash
# One rank a process of mpirun's (Open MPI; mpi4py must be installed: pip install 'splitcom-dist[mpi]').
#
#   RANKS=5 launch/mpirun.sh my.yaml roles.client_ranks=3                                           # one machine
#   RANKS=8 MPIRUN="--host node01:4,node02:4" launch/mpirun.sh my.yaml roles.client_ranks=6 --out /shared/runs/one
#   RANKS=5 COMMAND=doctor launch/mpirun.sh --transport mpi         # what the ranks see, and how fast MPI is
#
# MPI starts the ranks and tells them where to meet; unless the transport is mpi, what they send goes over Gloo or NCCL.
# MASTER_ADDR and MASTER_PORT win if they are exported to every rank: MPIRUN="-x MASTER_ADDR=node01 -x MASTER_PORT=29400".
# More ranks than cores: MPIRUN=--oversubscribe. As root: export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1.
set -euo pipefail
ranks=${RANKS:?how many ranks in all}
read -ra options <<<"${MPIRUN:-}"
[ -t 1 ] || export TTY_COMPATIBLE=0 # mpirun gives ranks a terminal of its own, also where a log file is at its end
# Not bound to cores: a client and its server take turns, and each may use what the other leaves.
exec mpirun -n "$ranks" --bind-to none "${options[@]}" "${PYTHON:-python}" -m splitcom_dist "${COMMAND:-train}" "$@"
