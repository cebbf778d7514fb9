#!/bin/sh
# join FILE COMMAND ...: runs `swarm COMMAND ...` in the swarm of the node that has written the ready file FILE.
set -eu
file=$1
shift
[ -s "$file" ] || echo "waiting for a node to write $file" >&2
until [ -s "$file" ]; do
    sleep 1
done
SWARM_PEERS=$(python -c 'import json, sys; print(json.load(open(sys.argv[1]))["addresses"][0])' "$file")
export SWARM_PEERS
exec swarm "$@"
