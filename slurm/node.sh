#!/usr/bin/env bash
# The task of a template's step on each node: torchrun, which gets one TERM however many signals come (a third would make
# it drop its workers unsaved), and the name of the first signal in the folder of this start.
asked=
launcher=
for signal in USR1 USR2 TERM INT HUP; do
	# shellcheck disable=SC2064  # expands now
	trap "asked=\${asked:-$signal}" "$signal" # until the function is defined
done

# shellcheck disable=SC2317  # called by traps
on_signal() { # SIGNAL
	local first=${asked:-none}
	asked=${asked:-$1}
	if [ -n "$launcher" ] && [ "$first" = none ]; then kill -TERM "$launcher" 2>/dev/null; fi
}
for signal in USR1 USR2 TERM INT HUP; do
	# shellcheck disable=SC2064  # expands now
	trap "on_signal $signal" "$signal"
done

nproc=$1 first=$2 port=$3 words=$4 # words: of how many Python consists, as in apptainer exec image.sif python
shift 4
python=("${@:1:words}")
shift "$words"
(
	trap '' USR1 USR2
	exec "${python[@]}" -m jobs.launch --nnodes="$SLURM_JOB_NUM_NODES" --node-rank="$SLURM_NODEID" --nproc-per-node="$nproc" \
		--master-addr="$first" --master-port="$port" -m jobs.rank "$@"
) &
launcher=$!
[ -z "$asked" ] || kill -TERM "$launcher" 2>/dev/null
wait "$launcher"
code=$?
while kill -0 "$launcher" 2>/dev/null; do # a trap ends `wait` too
	wait "$launcher"
	code=$?
done
wait "$launcher" 2>/dev/null
again=$?
[ "$again" -eq 127 ] || code=$again
if [ -n "$asked" ] && [ "$code" -ne 0 ]; then
	[ -z "${SEGTRAIN_CODES:-}" ] || echo "SIG$asked" >"$SEGTRAIN_CODES/signal-$SLURM_NODEID"
	code=75
fi
exit "$code"
