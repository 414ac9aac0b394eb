#!/bin/sh
# Becomes containerd in the mount namespace that it is started in: `containerd.sh DIR BIN CONF`. What a
# container runtime keeps in fixed places of the host (/run/containerd, /opt/cni, /etc/cni) is laid over
# the host's own, and goes with the namespace. BIN and CONF are what it finds in /opt/cni/bin and
# /etc/cni/net.d. The caller makes the mount namespace a slave, so that nothing comes back to the host.
set -eu
dir=$1 bin=$2 conf=$3

# Others' network namespaces would live on as long as this one has them mounted.
if [ -d /run/netns ]; then umount --recursive --quiet /run/netns || true; fi
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /opt
mkdir -p /opt/cni/bin /run/etc /run/etc-work
mount --bind "$bin" /opt/cni/bin
# The upper layer is in memory: whatever the directory lies on, an overlay may lie on that.
mount -t overlay overlay -o lowerdir=/etc,upperdir=/run/etc,workdir=/run/etc-work /etc
mkdir -p /etc/cni/net.d
mount --bind "$conf" /etc/cni/net.d
exec containerd --root /run/containerd-root --state /run/containerd --config "$dir/config.toml"
