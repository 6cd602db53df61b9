#!/bin/sh
# Installs what both images need, from the lock file that make, tests and CI use. It also works without an image, in a clone:
#   sh docker/install.sh /tmp/venv
# EXTRAS=[deepspeed] adds an extra. Run from the folder that holds pyproject.toml.
set -eu
# What an editable install puts on the path (pyproject.toml). Made anew, since copying into an image may follow the links.
mkdir -p .editable
ln -sfn ../segtrain .editable/segtrain
ln -sfn ../jobs .editable/jobs
python3 -m venv "$1"
"$1/bin/pip" install --no-cache-dir --disable-pip-version-check -q -c constraints.txt -e ".${EXTRAS:-}"
