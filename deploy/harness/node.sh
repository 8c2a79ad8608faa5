#!/bin/bash
# Process 1 of a node, in namespaces of its own: makes a machine of them, then keeps containerd, kubelet and kube-proxy running.
# Its death is a power cut. usage: node.sh FOLDER (of the node) FOLDER (of the cluster)
set -euo pipefail
D=$1 CLUSTER=$2
. "$D/commands"
NAME=$(<"$D/hostname")

# A fresh /sys shows the node's own devices, but no cgroups: they are carried over. --move fails once mounts are shared.
mkdir -p "$D/cg" "$D/log" "$D/pid" "$D/hold"
mount --rbind /sys/fs/cgroup "$D/cg"
mount -t sysfs sysfs /sys
mount --move "$D/cg" /sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs /run
for each in var/lib var/log var/cache opt srv mnt; do # private to the node, and under the standard paths
  mkdir -p "$D/disk/$each"
  mount --bind "$D/disk/$each" "/$each"
done
(cd "$D/sysctl" && find . -type f) | while read -r each; do mount --bind "$D/sysctl/$each" "/proc/sys/$each"; done
echo 1 >/proc/sys/net/ipv4/ip_forward
hostname "$NAME"
mount --make-rshared / # mount propagation of pods needs it

export PATH=${SHIMS%/*}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root

# keep NAME COMMAND...: runs it, and again when it ends, but not while $D/hold/NAME exists.
keep() {
  local name=$1 pid
  shift
  while :; do
    while [ -e "$D/hold/$name" ]; do sleep 0.1; done
    [ "$name" != containerd ] || rm -f /run/containerd/*.sock*
    "$@" >>"$D/log/$name.log" 2>&1 &
    pid=$!
    echo $pid >"$D/pid/$name"
    wait $pid || true
    sleep 0.3
  done
}

import() { # the pause image first: no pod starts without it
  [ ! -e "$D/imported" ] || return 0
  local image
  for image in "$CLUSTER"/images/*.tar; do
    "$CTR" -n k8s.io images import "$image" >>"$D/log/import.log" 2>&1 || { echo "import of $image failed" >&2; exit 1; }
  done
  touch "$D/imported"
}

keep containerd "$CONTAINERD" --config "$D/containerd.toml" &
until "$CTR" version >/dev/null 2>&1; do sleep 0.05; done
import
until [ -e "$CLUSTER/api-ready" ]; do sleep 0.05; done
keep kubelet "$KUBELET" --config="$D/kubelet.json" --kubeconfig="$CLUSTER/pki/$NAME.kubeconfig" \
  --node-ip="$(<"$D/address")" --hostname-override="$NAME" &
keep kube-proxy "$KUBE_PROXY" --config="$D/kube-proxy.json" &
while :; do wait -n || true; done # reaps what loses its parent
