#!/usr/bin/env bash
# Runs tests again and again beside processes that keep all cores busy, and prints a tally.
#
#   tests/under-load.sh up6 rs2                 # 20 runs of all tests with `up6` or `rs2` in their names, load 8
#   RUNS=100 BUSY=16 tests/under-load.sh ov10   # more of both
#   RUNS=5 tests/under-load.sh                  # the whole of tests/it
#
# What failed is kept in target/under-load. The exit code is 1 if anything failed.
set -euo pipefail
cd "$(dirname "$0")/.."

runs=${RUNS:-20}
busy=${BUSY:-8}
logs=${CARGO_TARGET_DIR:-target}/under-load

cargo test --locked -p tests --test it --no-run
binary=$(cargo test --locked -p tests --test it --no-run --message-format json 2>/dev/null |
  sed -n 's/.*"executable":"\([^"]*\/it-[0-9a-f]*\)".*/\1/p')

rm -rf "$logs" && mkdir -p "$logs"
pids=()
trap '((${#pids[@]} == 0)) || kill "${pids[@]}" 2>/dev/null || true' EXIT
for ((number = 0; number < busy; number++)); do
  (while :; do :; done) &
  pids+=($!)
done

failed=0
for ((run = 1; run <= runs; run++)); do
  log=$logs/run-$run
  # Tests find fixtures and the lock file beside their own folder.
  if (cd tests && "$binary" "$@" >"$log" 2>&1); then
    printf '.'
  else
    printf 'F'
    failed=1
  fi
done
printf '\n\n'
kill "${pids[@]}" 2>/dev/null || true
wait 2>/dev/null || true
pids=()

# Name, runs that it passed, runs that it failed.
awk -v runs="$runs" '
  / \.\.\. / && /^test / {
    name = $2
    names[name] = 1
    # What the test itself prints may stand between the name and the verdict.
    if ($NF == "ok") passed[name]++
  }
  END { for (name in names) printf "%4d of %d passed  %s\n", passed[name], runs, name }
' "$logs"/run-* | sort -n
grep -hA2 "panicked at" "$logs"/run-* | grep -v '^--$' | sort | uniq -c | sort -rn | head -40 || true
exit "$failed"
