#!/usr/bin/env bash
# Makes the runs of this folder anew: make.sh CHECKOUT PYTHON, with a checkout of the commit that README.md names.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
export PYTHONPATH=$1 OMP_NUM_THREADS=1
python=$2
work=/tmp/before # jobs and queues write absolute paths down
rm -rf "$work"
mkdir "$work"
cp "$here"/*.yaml "$work"
cd "$work"

train() { "$python" -m segtrain.train --config small.yaml "$@"; }

wait_for() { # FILE PATTERN: wait until a line of the file fits
    until grep -qsE "$2" "$1"; do sleep 0.01; done
}

halt_at() { # RUN STEP: halt the run's process once it has recorded a step as late as that; sets pid
    wait_for "$1/ranks/0.json" '"pid"'
    pid=$(grep -oE '"pid": [0-9]+' "$1/ranks/0.json" | grep -oE '[0-9]+')
    wait_for "$1/metrics.jsonl" "\"step\": $2,"
    kill -STOP "$pid"
    sleep 1.1 # a process looks at its STOP file each second
}

# A run left alone, and the same run stopped in three ways in its second epoch, of which each has 22 steps.
train name=unbroken

train name=stop_file &
halt_at runs/stop_file 28
touch runs/stop_file/STOP
kill -CONT "$pid"
wait $! || test $? = 75

train name=sigterm &
halt_at runs/sigterm 35
kill -TERM "$pid"
kill -CONT "$pid"
wait $! || test $? = 75

train name=deadline stop.deadline=45s &
halt_at runs/deadline 28
sleep 45
kill -CONT "$pid"
wait $! || test $? = 75

# An ablation of four runs, told to stop while the last one starts.
"$python" -m segtrain ablate spec.yaml &
pid=$!
wait_for runs/losses/results.csv '^plain-fold1-seed42,plain,1,42,finished'
wait_for runs/losses/uniform-fold1-seed42.yaml name
kill -TERM "$pid"
wait "$pid" || test $? = 75

# A queue: told to stop once, then cut off, as by a reboot, when one run has finished, one has been killed, and one has
# been stopped by its STOP file.
"$python" -m jobs.offline queue.yaml runs_dir="$work/queue" &
pid=$!
wait_for queue/night/whole/metrics.jsonl '"step": 7,'
kill -TERM "$pid"
wait "$pid" || test $? = 75

"$python" -m jobs.offline queue.yaml runs_dir="$work/queue" &
queue_pid=$!
wait_for queue/night/killed/ranks/0.json '"pid"'
kill -KILL "$(grep -oE '"pid": [0-9]+' queue/night/killed/ranks/0.json | grep -oE '[0-9]+')"
wait_for queue/night/stopped/ranks/0.json '"pid"'
halt_at queue/night/stopped 28
touch queue/night/stopped/STOP
kill -CONT "$pid"
wait_for queue/night/journal.jsonl '"event": "pass", "run": "stopped"'
kill -KILL "$queue_pid"
wait "$queue_pid" || test $? = 137

# A job, here in the foreground, stopped by its STOP file.
"$python" -m jobs.submit --executor local --config small.yaml name=job runs_dir="$work/jobs" &
halt_at jobs/job 28
touch jobs/job/STOP
kill -CONT "$pid"
wait $! || test $? = 75

# What the tests need of it, without the names of this machine.
rm -rf "$here"/{runs,jobs,queue}
cp -r runs jobs queue "$here"
cd "$here"
find runs jobs queue -path '*/.jobs/*/code' -prune -exec rm -r {} +
rm -rf queue/night/report
find runs jobs queue -name 'step-*' | while read -r checkpoint; do # that no pointer names
    grep -q "${checkpoint##*/}" "${checkpoint%/*}"/{BEST,LATEST} || rm -r "$checkpoint"
done
find runs jobs queue -name tensorboard -exec rm -r {} +
find runs jobs queue \( -name '*.lock' -o -empty -type f \) -delete
find runs jobs queue -type d -empty -delete
# Nothing that has a hash in a manifest: not a checkpoint's files.
find runs jobs queue -type f -not -path '*/checkpoints/*' -not -name '*.png' -exec sed -i -E \
    -e "s#$1#/checkout#g" -e "s/\b$(hostname)\b/node1/g" -e 's/"platform": "[^"]*"/"platform": "Linux"/' {} +
du -sh --apparent-size .
