#!/bin/bash
# A job that survives its time limit: two minutes before it, SLURM sends SIGUSR1; the run saves, queues the job again,
# and the next one goes on from there. Submit it once: sbatch examples/slurm.sh
# A task for each GPU, on any number of computers; for a single GPU set all three numbers to 1.
#SBATCH --job-name=babygpt
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append

set -euo pipefail
run=runs/long
if [ -e "$run/recipe.yaml" ]; then
  exec srun --kill-on-bad-exit=1 babygpt train --resume "$run"
fi
exec srun --kill-on-bad-exit=1 babygpt train --config recipe.yaml --out "$run"
