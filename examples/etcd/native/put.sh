#!/bin/sh
# Puts the services and backends beside this script into etcd, or removes them: put.sh delete.
# ETCDCTL_ENDPOINTS says where, PREFIX under what.
set -eu
export ETCDCTL_API=3
prefix=${PREFIX:-/lb/}
cd "$(dirname "$0")"

find services backends -name '*.json' | sort | while read -r file; do
    key=$prefix${file%.json}
    if [ "${1:-put}" = delete ]; then
        etcdctl del "$key" >/dev/null
    else
        etcdctl put "$key" <"$file" >/dev/null
    fi
    echo "${1:-put} $key"
done

# A backend that goes away by itself unless something keeps its lease alive, as `lbctl register`
# does:
#   lease=$(etcdctl lease grant 10 | cut -d' ' -f2)
#   etcdctl put --lease="$lease" /lb/backends/web/c '{"address": "10.0.0.7:8080"}'
#   etcdctl lease keep-alive "$lease"
