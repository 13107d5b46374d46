#!/bin/sh
# `docker run IMAGE serve` is what SageMaker hosting runs; with more words it is the command line as anywhere.
set -eu
if [ "$#" -eq 1 ] && [ "$1" = serve ]; then
    exec rallytrace serve --sagemaker
fi
exec rallytrace "$@"
