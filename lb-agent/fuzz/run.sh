#!/bin/sh
# Runs targets of cargo-fuzz, each for a time: run.sh DURATION [TARGET]... Without one, all of them. A stable
# compiler does: what is looked for are panics, and coverage is all that it takes.
set -eu
cd "$(dirname "$0")/.."

fail() {
    echo "fuzz: $*" >&2
    exit 2
}

duration=$1
shift
seconds=${duration%[smh]}
case $seconds in
'' | *[!0-9]*) fail "DURATION=$duration is no time; write it as 90s, 10m or 1h" ;;
esac
case $duration in
*m) seconds=$((seconds * 60)) ;;
*h) seconds=$((seconds * 3600)) ;;
esac
known=$(basename -s .rs fuzz/fuzz_targets/*.rs)
for target in "$@"; do
    echo "$known" | grep -qx -- "$target" || fail "there is no TARGET=$target; there are" $known
done

# The very versions of libraries that the agent is built with.
cp ../Cargo.lock fuzz/Cargo.lock
for target in ${*:-$known}; do
    RUSTC_BOOTSTRAP=1 cargo fuzz run --dev --sanitizer none "$target" -- "-max_total_time=$seconds"
done
