#!/usr/bin/env bash
# One rank a task with Slurm's srun: inside a batch script or salloc in its allocation, elsewhere in one of its own.
#
#   salloc --nodes=2 --ntasks-per-node=3 launch/srun.sh my.yaml roles.client_ranks=4 --out /shared/runs/one
#   SRUN="--ntasks=5 --partition=cpu" launch/srun.sh my.yaml roles.client_ranks=3 --out /shared/runs/two
#   SRUN="--het-group=0,1" launch/srun.sh my.yaml ...     # all components of a heterogeneous job: ranks 0.. are those
#                                                         # of component 0, so the clients' component comes first
#   COMMAND=doctor launch/srun.sh                         # what every rank sees, and how fast they reach each other
#
# Ranks find each other by the step's node list, at a port derived from job and step (20000 to 29999); an exported
# MASTER_ADDR or MASTER_PORT wins. The run directory must be on a file system that all nodes share. torch needs no
# MPI; for the MPI transport export SLURM_MPI_TYPE, one of `srun --mpi=list`.
set -euo pipefail
read -ra options <<<"${SRUN:-}"
export SLURM_MPI_TYPE=${SLURM_MPI_TYPE:-none}
if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then
    export SRUN_CPUS_PER_TASK=${SRUN_CPUS_PER_TASK:-$SLURM_CPUS_PER_TASK} # srun does not take it from sbatch any more
fi
# No rank waits forever for one that is lost, so srun need not end the others: that would hide their exit codes.
exec srun --kill-on-bad-exit=0 --wait=0 "${options[@]}" \
    "${PYTHON:-python}" -m splitcom_dist "${COMMAND:-train}" "$@"
