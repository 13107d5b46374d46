#!/bin/sh
# The one word `serve` or `train`, and `process ...`, are what SageMaker runs; other words are the command line as
# anywhere, `serve` and `train` with options too.
set -eu
case "$*" in
serve | train | process | process\ *) exec python -m rallytrace.aws.container "$@" ;;
esac
exec rallytrace "$@"
