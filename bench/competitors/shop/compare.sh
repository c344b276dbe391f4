#!/usr/bin/env bash
# The three services of examples/ and the same in tonic: lines, and clean debug builds. Needs
# protoc; takes some minutes.
set -euo pipefail
cd "$(dirname "$0")"
root=$(cd ../../.. && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Only the services, without Distributor, gateway and the shop's program; and without our profile,
# which optimises dependencies.
mkdir -p "$work/ours/src"
cp "$root"/examples/src/{members,goods,purchases,database}.rs "$work/ours/src"
cp "$root/Cargo.lock" "$work/ours"
cat >"$work/ours/src/main.rs" <<RUST
mod database; mod goods; mod members; mod purchases;
#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::path::PathBuf::from(std::env::args().nth(1).ok_or("give a folder for the databases")?);
    let open = |name, tables| database::Database::open(&folder.join(name), tables);
    let _members = members::node(open("members.db", members::TABLES)?).start().await?;
    let _goods = goods::node(open("goods.db", goods::TABLES)?).start().await?;
    Ok(purchases::node(open("purchases.db", purchases::TABLES)?).serve().await?)
}
RUST
cat >"$work/ours/Cargo.toml" <<TOML
[workspace]
[package]
name = "our-shop"
version = "0.1.0"
edition = "2024"
[dependencies]
argon2 = "0.6"
futures = "0.3"
node-sdk = { path = "$root/node-sdk" }
rusqlite = { version = "0.41", features = ["bundled"] }
serde = { version = "1", features = ["derive"] }
tokio = { version = "1", features = ["full"] }
tracing = { version = "0.1", default-features = false, features = ["std"] }
TOML

lines() { grep -hvE '^\s*(//.*)?$' "$@" | wc -l; }
seconds() { local begin=$EPOCHREALTIME; "$@" >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }; awk "BEGIN { printf \"%.1f\", $EPOCHREALTIME - $begin }"; }
build() { # manifest, package, target
  cargo fetch -q --manifest-path "$1"
  cargo build -q --manifest-path "$1" -p rusqlite -p argon2 -p tokio -p futures --target-dir "$3"
  local rest; rest=$(seconds cargo build --manifest-path "$1" -p "$2" --target-dir "$3")
  rm -rf "$3"
  echo "$(seconds cargo build --manifest-path "$1" -p "$2" --target-dir "$3") s, $rest s on top of SQLite, argon2, tokio and futures"
}

echo "lines     node-sdk $(lines "$root"/examples/src/{members,goods,purchases}.rs), with events; $(lines "$work/ours/src/main.rs") to run them"
echo "lines     tonic    $(lines src/{members,goods,purchases}.rs proto/shop.proto build.rs), without; $(lines src/main.rs) to run them"
echo "building  node-sdk $(build "$work/ours/Cargo.toml" our-shop "$work/target-ours")"
echo "building  tonic    $(build "$PWD/Cargo.toml" tonic-shop "$work/target-tonic")"
echo "crates    node-sdk $(cargo tree -q --manifest-path "$work/ours/Cargo.toml" -e normal,build --prefix none | sort -u | wc -l)"
echo "crates    tonic    $(cargo tree -q --manifest-path "$PWD/Cargo.toml" -e normal,build --prefix none | sort -u | wc -l)"
