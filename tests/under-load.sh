#!/usr/bin/env bash
# Runs tests again and again beside processes that keep all cores busy, and prints a tally.
#
#   tests/under-load.sh up6 rs2                 # 20 runs of tests with `up6` or `rs2` in the name
#   RUNS=100 BUSY=16 tests/under-load.sh ov10   # more of both
#   RUNS=5 tests/under-load.sh                  # the whole of tests/it
#   RUNS=5 tests/under-load.sh --workspace      # all test binaries of all crates; not the doctests
#   tests/under-load.sh --workspace liveness    # those tests of any crate
#
# Each test that failed in any run has a line. The output of all runs is kept in target/under-load.
# The exit code is 1 if anything failed.
set -euo pipefail
cd "$(dirname "$0")/.."

runs=${RUNS:-20}
busy=${BUSY:-8}
logs=$(realpath -m "${CARGO_TARGET_DIR:-target}")/under-load

packages=(-p tests --test it)
if [[ ${1:-} == --workspace ]]; then
  packages=(--workspace)
  shift
fi

# What stops the build is shown; then each binary, and the folder of its crate, where cargo runs it.
cargo test --locked "${packages[@]}" --no-run
mapfile -t binaries < <(cargo test --locked "${packages[@]}" --no-run --message-format json 2>/dev/null |
  sed -n 's|.*"manifest_path":"\([^"]*\)/Cargo.toml".*"profile":{[^}]*"test":true}.*"executable":"\([^"]*\)".*|\1 \2|p')
((${#binaries[@]})) || { echo 'no test binary was built' >&2; exit 2; }

rm -rf "$logs" && mkdir -p "$logs"
pids=()
trap '((${#pids[@]} == 0)) || kill "${pids[@]}" 2>/dev/null || true' EXIT
for ((number = 0; number < busy; number++)); do
  (while :; do :; done) &
  pids+=($!)
done

failed=0
for ((run = 1; run <= runs; run++)); do
  mark='.'
  for binary in "${binaries[@]}"; do
    read -r folder program <<<"$binary"
    name=${program##*/}
    # Crates have binaries of equal names, such as `cli`: the folder tells them apart.
    log=$logs/run-$run.${folder##*/}.${name%-*}
    if ! (cd "$folder" && CARGO_MANIFEST_DIR=$folder "$program" "$@" >>"$log" 2>&1); then
      mark='F'
      failed=1
    fi
  done
  printf '%s' "$mark"
done
printf '\n\n'
kill "${pids[@]}" 2>/dev/null || true
wait 2>/dev/null || true
pids=()

# Of each test that did not pass all runs, how many it passed. A test without a verdict was at work
# when its process ended.
awk -v runs="$runs" '
  /^test / && / \.\.\. / && $NF != "ignored" {
    crate = FILENAME
    sub(/.*\/run-[0-9]+\./, "", crate)
    sub(/\..*/, "", crate)
    name = crate " " $2
    names[name] = 1
    # What the test itself prints may stand between the name and the verdict.
    if ($NF == "ok") passed[name]++
  }
  END {
    for (name in names) {
      all++
      if (passed[name] >= runs) green++
      else printf "%4d of %d passed  %s\n", passed[name], runs, name | "sort -n"
    }
    close("sort -n")
    printf "%d of %d tests passed %d runs\n", green, all, runs
  }
' "$logs"/run-*
grep -hA2 "panicked at" "$logs"/run-* | grep -v '^--$' | sort | uniq -c | sort -rn | head -40 || true
exit "$failed"
