# List the recipes
default:
    @just --list --unsorted

# Run the app on embedded defaults: SQLite, local memory, a built-in slow API
run: (system-packages "build")
    cargo build --package larder-web
    @exec "${CARGO_TARGET_DIR:-target}/debug/larder" serve --demo

# Run a command of the binary: just larder cache stats
[no-exit-message]
[positional-arguments]
larder *arguments: (system-packages "build")
    @cargo build --quiet --package larder-web
    @exec "${CARGO_TARGET_DIR:-target}/debug/larder" "$@"

# Run all tests; they start the servers that they need
test: (system-packages "build" "test")
    scripts/axe
    cargo test --workspace --all-features

# Make the pictures of the README anew
screenshots: (system-packages "build" "test" "screenshots")
    cargo test --package larder-web --test it browser::pictures
    mkdir -p docs/screenshots
    for name in edit toolbar request; do \
        pngquant --force --strip --quality 50-90 --output docs/screenshots/$name.png "${CARGO_TARGET_DIR:-target}/screenshots/readme-$name.png"; \
    done

# What must hold before the tests: format, lints, docs, licences
check: (system-packages "build")
    cargo fmt --all --check
    cargo clippy --workspace --all-features --all-targets -- -D warnings
    cargo clippy --package larder-cache --no-default-features -- -D warnings
    cargo clippy --package larder-cache --no-default-features --features page -- -D warnings
    cargo clippy --package larder-cache --no-default-features --features template,memcached -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --all-features --no-deps
    @command -v cargo-deny >/dev/null || { echo "cargo-deny is missing; run: cargo install --locked cargo-deny"; exit 1; }
    cargo deny check bans licenses sources

# Measure hits against a raw handler, models against diesel alone, and the toolbar against none; with --check it fails where too little is reached
bench *arguments: (system-packages "build" "test" "bench")
    cargo bench --package larder-models --all-features --bench bench --no-run
    # On one processor, with the server: which one wakes which would be most of the figure.
    taskset --cpu-list 0 cargo bench --package larder-models --all-features --bench bench
    cargo bench --package larder-web --bench bench
    cargo bench --package larder-cache --all-features --bench bench -- {{ arguments }}

# Feed a parser with what nobody thought of: request_fields, response_fields, query, entry, page, template, address
fuzz target seconds="60":
    @command -v cargo-fuzz > /dev/null || { echo "cargo-fuzz is missing; install it with: cargo install --locked cargo-fuzz"; exit 1; }
    # The fuzzer's flags are unstable; the compiler is the one of everything else.
    cd crates/cache && RUSTC_BOOTSTRAP=1 cargo fuzz run --sanitizer none {{ target }} -- -max_total_time={{ seconds }}

# Format the code
format:
    cargo fmt --all

# Remove the database, sessions and the admin's password that `just run` made
reset:
    rm -rf var

# See to the system packages for building or testing
[private]
system-packages +uses:
    @scripts/system-packages {{ uses }}
