# shellcheck shell=bash
# Sourced by the templates beside it. Edit the first part for your cluster; values from the environment take precedence.

SEGTRAIN_HOME=${SEGTRAIN_HOME:-${SLURM_SUBMIT_DIR:-$PWD}} # the checkout
PYTHON=${PYTHON:-$SEGTRAIN_HOME/.venv/bin/python}        # of `make setup`, another, or words: apptainer exec --nv x.sif python
NPROC=${NPROC:-${SLURM_GPUS_ON_NODE:-1}}                 # processes per node: one per GPU
SAVE_S=${SAVE_S:-60}                                     # seconds that a save may take after a signal
SRUN_OPTIONS=${SRUN_OPTIONS:-}                           # of the training's step: --label --container-image=...
HOST_SUFFIX=${HOST_SUFFIX:-}                             # of the first node's name, where the other nodes reach it: -ib0
# module load cuda
# export NCCL_SOCKET_IFNAME=ib0 GLOO_SOCKET_IFNAME=ib0

# End as after a user's error.
refuse() { # MESSAGE
	echo "error: $1" >&2
	exit 2
}

python=("$PYTHON")
if ! command -v "$PYTHON" >/dev/null; then
	eval "python=($PYTHON)"
	command -v "${python[0]:-}" >/dev/null || refuse "PYTHON=$PYTHON: no such program; run make setup, or set PYTHON"
fi
export SLURM_EXPORT_ENV=ALL # what is set here reaches the steps, also of a job submitted with --export=NONE
# A container may have no scontrol: then the job is requeued here, at the end of the script, unless it is cancelled.
export SEGTRAIN_REQUEUE=${SLURM_SUBMIT_DIR:-$PWD}/.requeue-${SLURM_JOB_ID:-}
export PYTHONPATH=$SEGTRAIN_HOME${PYTHONPATH:+:$PYTHONPATH}
cpus=${SLURM_CPUS_PER_TASK:-${SLURM_CPUS_ON_NODE:-1}}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cpus > NPROC ? cpus / NPROC : 1))}
export PET_SHUTDOWN_TIMEOUT=$SAVE_S
# srun no longer takes this from the job since SLURM 22.05.
[ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK

# shellcheck source=jobs/job.sh
. "$SEGTRAIN_HOME/jobs/job.sh"

# A question of jobs/batch.py's.
ask() { # QUESTION ARGUMENT...
	shielded "${python[@]}" -m jobs.batch "$@"
}

listening() { # PORT: whether a process on this node, the first one, listens there
	local address
	for address in "$first" "$(hostname)" 127.0.0.1; do
		! (: <>"/dev/tcp/$address/$1") 2>/dev/null || return 0
	done
	return 1
}

# Train over the job's nodes (slurm/node.sh on each), on another port if the first was taken; returns srun's exit code.
train() { # ARGUMENT...
	local attempt port first code=75
	first=$(shielded scontrol show hostnames "$SLURM_JOB_NODELIST") # not into head, whose early end may fail the pipe
	first=${first%%$'\n'*}$HOST_SUFFIX
	for attempt in 1 2 3; do
		[ -z "$asked" ] || break
		port=$((20000 + RANDOM % 10000))
		while listening "$port"; do port=$((20000 + RANDOM % 10000)); done
		code=0
		# shellcheck disable=SC2086  # several options
		run_step --ntasks-per-node=1 --kill-on-bad-exit=1 --wait=60 --open-mode=append $SRUN_OPTIONS \
			bash "$SEGTRAIN_HOME/slurm/node.sh" "$NPROC" "$first" "$port" "${#python[@]}" "${python[@]}" "$@" || code=$?
		case $code in 0 | 75) break ;; esac
		[ -z "$(ls "${SEGTRAIN_CODES:-/nonexistent}" 2>/dev/null)" ] || break
		listening "$port" || break
		echo "port $port was taken in between; trying another (attempt $attempt of 3)" >&2
	done
	return "$code"
}
