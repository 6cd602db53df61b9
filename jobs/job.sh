# shellcheck shell=bash
# Sourced by the batch scripts of all jobs: a step that saves whatever signal the script gets, and a way back into the queue.
#
# A script notes signals from its first line on, before it sources this. asked: the first that asked it to stop.

asked=${asked:-}
step=   # srun's process id while a step runs
teller= # that of the process that passes the signal on
ending= # whether SLURM ends the job, and has told the step itself
# This job as SLURM's commands name it. One element of each array has the array's id as SLURM_JOB_ID, and that stands for
# all elements: squeue prints a line for each of them, and scontrol requeues them all.
this_job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_}${SLURM_ARRAY_TASK_ID:-${SLURM_JOB_ID:-}}

on_signal() { # SIGNAL
	asked=${asked:-$1}
	[ -n "$step" ] || return 0
	if [ "$1" = TERM ] && [ "$(job_state)" != RUNNING ]; then ending=yes; else tell_step; fi
}

# The state of this job, RUNNING where SLURM does not say it.
job_state() {
	(
		unset "${!SQUEUE_@}" # a user's filters, SQUEUE_PARTITION say
		shielded squeue -h -j "$this_job" -o %T 2>/dev/null
	) || echo RUNNING
}

# Run a program that no signal ends: SLURM may signal every process of the script.
shielded() { # PROGRAM ARGUMENT...
	(
		trap '' USR1 USR2 TERM
		exec "$@"
	)
}

# Have the step save and leave. srun hands USR1 on to its tasks (at TERM it would kill them), but loses one that comes
# while it starts them. A task heeds the first alone.
tell_step() {
	[ -z "$teller" ] || return 0
	echo "$asked: telling the step to save and leave"
	(
		trap '' USR1 USR2 TERM
		while kill -USR1 "$step" 2>/dev/null; do sleep 2; done
	) &
	teller=$!
}

# Run a step to its end; returns srun's exit code. 143 at once where SLURM ends the job, which tells the tasks by itself: an
# srun that lives on then cancels the step of the next start, which SLURM may begin meanwhile, under the same number.
run_step() { # srun's ARGUMENT...
	local code again=0
	teller=
	set -m # a process group of its own
	# Not `shielded`: a function in the background is a shell of its own, which USR1 would end in place of reaching srun.
	(
		trap '' INT QUIT USR1 USR2 TERM
		exec srun "$@"
	) </dev/null &
	step=$!
	set +m
	[ -z "$asked" ] || tell_step
	code=0
	wait "$step" || code=$?
	while kill -0 "$step" 2>/dev/null; do # a trap ends `wait` too
		if [ -n "$ending" ]; then
			kill -KILL -- "-$step" # with its child, which would cancel the step in its place
			return 143
		fi
		code=0
		wait "$step" || code=$?
	done
	wait "$step" 2>/dev/null || again=$? # also where the step ended at that moment
	[ "$again" -eq 127 ] || code=$again
	step=
	return "$code"
}

# All that it calls is defined by now.
for signal in USR1 USR2 TERM; do
	# shellcheck disable=SC2064  # expands now
	trap "on_signal $signal" "$signal"
done

resubmit() { # JOB WHY: submit the run again; scripts of jobs/sbatch.py know how
	return 1
}

cut_off() { # CODE: decide what becomes of a job whose step was killed, unless the step has; scripts of jobs/sbatch.py know how
	return "$1"
}

# Have the job start again, unless SLURM ends it already: then it must not, or does so by itself.
start_again() { # WHY [HOW]: resubmit, without asking SLURM to requeue it
	[ "$(job_state)" = RUNNING ] || return 0
	echo "$1: back into the queue"
	if [ "${2:-}" = resubmit ] || ! shielded scontrol requeue "$this_job"; then
		resubmit "$this_job" "$1" || echo "$1: SLURM does not requeue the job: submit it again to go on" >&2
	fi
}

# End the script and have the job start again.
come_back() { # WHY
	start_again "$1"
	exit 75
}

# At the script's end: have the job start again where its step, in a container without scontrol, asks for that by a file,
# which says how.
heed_step() {
	local how
	[ -e "${SEGTRAIN_REQUEUE:-}" ] || return 0
	how=$(cat "$SEGTRAIN_REQUEUE")
	rm -f "$SEGTRAIN_REQUEUE"
	start_again "as the step asks" "$how"
}
[ -z "${SEGTRAIN_REQUEUE:-}" ] || trap heed_step EXIT

# In place of srun where the step itself decides what becomes of the job: here before its program listens to signals.
srun() { # ARGUMENT...
	local code=0
	[ -z "$asked" ] || come_back "$asked before the step"
	run_step "$@" || code=$?
	case $code in
	129 | 130 | 138 | 140 | 143) come_back "signal $((code - 128)) ended the step before it started" ;;
	137) cut_off "$code" || code=$? ;;
	esac
	return "$code"
}
