#!/bin/bash
# A job that survives its time limit: two minutes before it, SLURM sends SIGUSR1; the run saves, queues the job again,
# and the next one goes on from there. Submit it once: sbatch examples/slurm.sh
#SBATCH --job-name=babygpt
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append

set -euo pipefail
run=runs/long
if [ -e "$run/recipe.yaml" ]; then
  exec srun babygpt train --resume "$run"
fi
exec srun babygpt train --config recipe.yaml --out "$run"
