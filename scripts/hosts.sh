#!/bin/sh
# Hosts on one machine: namespaces of networks that a bridge joins, each with a name, a view of its devices and shared
# memory of its own, so that programs take them for machines. As root, or as anybody who may have namespaces.
#
#   scripts/hosts.sh make 2 COMMAND ...        runs COMMAND where there are two hosts, which are gone when it ends
#   scripts/hosts.sh on 1 COMMAND ...          runs COMMAND on host 1; for what runs within `make`
#   scripts/hosts.sh [-x] 10.78.0.1 'words'    likewise, as launchers call ssh
set -eu

case "${1:-}" in
make)
  test $# -ge 3 || { echo "hosts.sh make: how many hosts, and which command?" >&2; exit 2; }
  rights=$(test "$(id -u)" = 0 || echo -Ur)
  exec unshare $rights --net --mount "$0" joined "$@"
  ;;
joined)
  shift 2
  count=$1
  shift
  ip link set lo up
  ip link add joined type bridge
  ip addr add 10.78.0.254/24 dev joined
  ip link set joined up
  HOSTS_MADE=
  trap 'kill $HOSTS_MADE 2>/dev/null || true' EXIT
  trap 'exit 1' HUP INT TERM
  for host in $(seq "$count"); do
    # UCX looks for interfaces in /sys, which shows those of the network in which it was mounted.
    unshare --net --mount --uts --ipc sh -c \
      "mount -t sysfs none /sys && hostname host-$host && exec sleep 7200" </dev/null >/dev/null 2>&1 &
    HOSTS_MADE="$HOSTS_MADE $!"
    while [ "$(readlink /proc/$!/ns/net)" = "$(readlink /proc/self/ns/net)" ]; do sleep 0.01; done
    ip link add "port$host" type veth peer name e0 netns $!
    ip link set "port$host" master joined
    ip link set "port$host" up
    nsenter -t $! -n sh -c "ip addr add 10.78.0.$host/24 dev e0 && ip link set e0 up && ip link set lo up"
    while [ "$(nsenter -t $! -u hostname)" != "host-$host" ]; do sleep 0.01; done
  done
  export HOSTS_MADE
  # Not in place of this shell, which takes the hosts away.
  "$@"
  ;;
on)
  host=$2
  shift 2
  test -n "${HOSTS_MADE:-}" || { echo "hosts.sh on: there are no hosts; see hosts.sh make" >&2; exit 2; }
  helper=$(echo $HOSTS_MADE | cut -d ' ' -f "$host")
  # Of MPI, whose launcher does not know that these hosts share their processors.
  core=${HOSTS_PIN:+$((host - 1))}
  exec nsenter -t "$helper" -n -m -u -i env -C "$PWD" SHOAL_HOSTID="host-$host" ${core:+taskset -c "$core"} "$@"
  ;;
-x)
  shift
  exec "$0" "$@"
  ;;
10.78.0.*)
  host=${1#10.78.0.}
  shift
  exec "$0" on "$host" sh -c "$*"
  ;;
*)
  sed -n 's/^# \{0,1\}//p' "$0" >&2
  exit 2
  ;;
esac
