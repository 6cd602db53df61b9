# shellcheck shell=bash
# Sourced by the templates beside it. Edit the first part for your cluster; values from the environment take precedence.

SEGTRAIN_HOME=${SEGTRAIN_HOME:-${SLURM_SUBMIT_DIR:-$PWD}} # the checkout
PYTHON=${PYTHON:-$SEGTRAIN_HOME/.venv/bin/python}        # made by `make setup`; any Python with the dependencies works
NPROC=${NPROC:-${SLURM_GPUS_ON_NODE:-1}}                 # processes per node: one per GPU
SAVE_S=${SAVE_S:-60}                                     # seconds that a save may take after a signal
# module load cuda

export PYTHONPATH=$SEGTRAIN_HOME${PYTHONPATH:+:$PYTHONPATH}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
export PET_SHUTDOWN_TIMEOUT=$SAVE_S
# A signal that torchrun does not handle would kill it, and the training with it, unsaved.
export PET_SIGNALS_TO_HANDLE=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1,SIGUSR2
# srun no longer takes this from the job since SLURM 22.05.
[ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK

# Start `jobs.rank` (segtrain.train, with its exit code recorded) under torchrun on every node of the job.
launch_on_nodes() { # PORT ARGUMENT...
	local port=$1 first
	shift
	first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
	# shellcheck disable=SC2016  # the variables are those of each node
	exec srun --ntasks-per-node=1 --kill-on-bad-exit=1 --wait=60 --open-mode=append \
		bash -c 'nproc=$1 first=$2 port=$3 python=$4; shift 4
			exec "$python" -m torch.distributed.run --nnodes="$SLURM_JOB_NUM_NODES" --node-rank="$SLURM_NODEID" \
				--nproc-per-node="$nproc" --master-addr="$first" --master-port="$port" -m jobs.rank "$@"' \
		launch "$NPROC" "$first" "$port" "$PYTHON" "$@"
}

listening() { # PORT: whether a process on this node, the first one, listens there
	(: <>"/dev/tcp/$(hostname)/$1") 2>/dev/null || (: <>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

# Train over the job's nodes, on another port if the first was taken; returns the launcher's exit code. A signal to this
# script sets `asked` and stops the training.
train() { # ARGUMENT...
	local attempt port code=1
	for attempt in 1 2 3; do
		port=$((20000 + RANDOM % 10000))
		while listening "$port"; do port=$((20000 + RANDOM % 10000)); done
		launch_on_nodes "$port" "$@" &
		step=$!
		code=0
		wait "$step" || code=$?
		# `wait` also returns when a trap has run.
		while kill -0 "$step" 2>/dev/null; do
			code=0
			wait "$step" || code=$?
		done
		if [ "$code" -eq 0 ] || [ -n "${asked:-}" ] || [ -n "$(ls "${SEGTRAIN_CODES:-/nonexistent}" 2>/dev/null)" ]; then
			break
		fi
		listening "$port" || break
		echo "port $port was taken in between; trying another (attempt $attempt of 3)" >&2
	done
	return "$code"
}

# Have the training save and leave. SLURM signals the steps itself; this is for signals that only this script gets.
stop_training() { # SIGNAL RUN
	[ -z "${asked:-}" ] || return 0
	asked=$1
	echo "$asked: telling the training to save and leave"
	if [ -d "$2/checkpoints" ]; then
		touch "$2/STOP"
	elif [ -n "${step:-}" ]; then # training has not begun yet
		kill -TERM "$step" 2>/dev/null || true
	fi
}
