#!/bin/sh
# Runs every test of the workspace and closes with "N passed, N failed, N skipped".
#
# A lab test that lacks root or a program passes in the harness's eyes and writes a line to the file named by
# WANIGAN_SKIPPED; here it is taken out of the passed ones. With WANIGAN_NO_SKIPS=1 a skipped test is a failure.
set -u

cd "$(dirname "$0")/.." || exit 1
out=$(mktemp -d) || exit 1
trap 'rm -rf "$out"' EXIT
: >"$out/skipped"
: >"$out/log"
failed_runs=0

# Keeps the exit status of the command, which a pipe to tee would lose.
run() {
    { "$@" 2>&1 || echo >"$out/bad"; } | tee -a "$out/log"
    if [ -e "$out/bad" ]; then
        rm -f "$out/bad"
        failed_runs=$((failed_runs + 1))
    fi
}

run cargo build --workspace --bins
if [ "$failed_runs" -eq 0 ]; then
    run cargo test --workspace --exclude wanigan-lab --no-fail-fast
    # One at a time: the lab's tests measure times, and two processors are few.
    WANIGAN_SKIPPED=$out/skipped
    WANIGAN_BIN=${WANIGAN_BIN:-${CARGO_TARGET_DIR:-target}/debug/wanigan}
    case $WANIGAN_BIN in /*) ;; *) WANIGAN_BIN=$PWD/$WANIGAN_BIN ;; esac
    export WANIGAN_SKIPPED WANIGAN_BIN
    run cargo test -p wanigan-lab --no-fail-fast -- --test-threads=1
fi

# A test may build several labs, and lack something for each.
sort -u "$out/skipped" -o "$out/skipped"
skipped=$(wc -l <"$out/skipped")
awk -v skipped="$skipped" '
    /^test result:/ {
        for (i = 2; i <= NF; i++) {
            if ($i ~ /^passed/) passed += $(i - 1)
            if ($i ~ /^failed/) failed += $(i - 1)
            if ($i ~ /^ignored/) ignored += $(i - 1)
        }
    }
    END { printf "%d %d %d\n", passed - skipped, failed, ignored + skipped }
' "$out/log" >"$out/sums"
read -r passed failed skipped <"$out/sums"

if [ "$skipped" -gt 0 ]; then
    echo
    echo "skipped:"
    sed 's/^/    /' "$out/skipped"
    sed -n 's/^test \(.*\) \.\.\. ignored.*/    \1 is ignored/p' "$out/log"
fi
if [ "$failed" -gt 0 ]; then
    echo
    echo "failed:"
    sed -n 's/^test \(.*\) \.\.\. FAILED.*/    \1/p' "$out/log"
fi
if [ "$failed_runs" -gt 0 ] && [ "$failed" -eq 0 ]; then
    # A build error or a test program that died has no test to count.
    failed=$failed_runs
fi
echo
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ] || exit 1
[ "$skipped" -eq 0 ] || [ "${WANIGAN_NO_SKIPS:-0}" != 1 ]
