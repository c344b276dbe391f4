# The steps of CI by name: `just fmt`, `just test`. `just` alone runs all of them.

# All steps
ci:
    .ci/run

# Installs what the tests need beyond a Rust toolchain (apt-get)
tools:
    .ci/run tools

# The titles of new commits are short enough
titles:
    .ci/run titles

# Is the code formatted?
fmt:
    .ci/run fmt

# No warnings, in tests and benches either
clippy:
    .ci/run clippy

# The documentation, without a warning
doc:
    .ci/run doc

# All tests
test:
    .ci/run test

# Each crate alone, without and with all of its features
features:
    .ci/run features

# The gateway reads the file of the README, and the examples of the node SDK run
examples:
    .ci/run examples

# The competitors that `drill` measures compile
bench:
    .ci/run bench

# Searches for bytes that a reader does not read as it should: `just fuzz request_head 3600`
fuzz TARGET='all' SECONDS='3':
    fuzz/run {{TARGET}} {{SECONDS}}

# Runs tests beside eight busy processes, and prints a tally: `just under-load up6 rs2`
under-load *TESTS:
    tests/under-load.sh {{TESTS}}

# The libraries that a service embeds compile for macOS
macos:
    .ci/run macos

# Licences, sources, doubled crates, and advisories if their database is within reach
deny:
    .ci/run deny

# Dependencies that nothing uses
unused:
    .ci/run unused

# It compiles with the oldest toolchain that Cargo.toml allows
oldest:
    .ci/run oldest

# Runs drill, optimised as a whole: `just drill fan-out --nodes 1000`
drill *ARGS:
    cargo build --profile dist -p distributor -p gateway -p bench
    target/dist/drill {{ARGS}}

# Searches for histories that break the registry, a hundred times as many as the tests do
simulate:
    SIMULATION_HISTORIES=10000000 cargo test --release -p distributor simulation
