#!/usr/bin/env bash
# Run a command where there is no network but loopback: Ray listens on every interface of its host, whatever it is told.
#   tests/ray_namespace.sh python -m pytest tests/resources/test_ray_launcher.py
# Whatever the command starts ends with it.
set -euo pipefail
# no reports to Ray's makers; no token, which Ray would write into the home folder
export RAY_USAGE_STATS_ENABLED=0 RAY_AUTH_MODE=disabled IN_RAY_NAMESPACE=1
unset RAY_ADDRESS
user=()
[ "$(id -u)" = 0 ] || user=(--user --map-root-user)
exec unshare "${user[@]}" --net --pid --fork --mount-proc --kill-child \
  bash -c 'ip link set lo up && exec "$@"' bash "$@"
