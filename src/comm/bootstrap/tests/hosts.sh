# Two hosts as network namespaces, joined by a cable (a0, b0); ranks run on both. Everything is gone with the
# processes. Arguments: the program, its arguments for one rank in one word, how the hosts look (see below),
# where the unique id is left, interfaces, address family.
set -eu
program=$1 arguments=$2 look=$3 place=$4 interfaces=$5 family=$6
unshare -n sleep 120 &
there=$!
trap 'kill $there' EXIT
for _ in $(seq 200); do
    [ "$(readlink /proc/$there/ns/net)" != "$(readlink /proc/self/ns/net)" ] && break
    sleep 0.02
done
here() { "$@"; }
over() { nsenter -t "$there" -n "$@"; }

ip link add a0 type veth peer name b0
ip link set b0 netns "$there"
here ip link set lo up
over ip link set lo up
case $look in
link-local)
    here ip addr add fe80::a/64 dev a0 nodad
    over ip addr add fe80::b/64 dev b0 nodad
    ;;
*)
    here ip addr add 10.77.0.1/24 dev a0
    over ip addr add 10.77.0.2/24 dev b0
    ;;
esac
if [ "$look" = crowded ]; then
    # A bridge for containers, with the same address on both hosts, and nobody behind it. Where the kernel has no
    # bridges a cable with a loose end is the same to whoever sends into it.
    for host in here over; do
        $host ip link add docker0 type bridge 2>/dev/null || $host ip link add docker0 type veth peer name far-end
        $host ip addr add 172.17.0.1/16 dev docker0
        $host ip link set docker0 up
    done
    # Sorts before the cable, and leads nowhere from the other host: packets go to a neighbour that is not there.
    here ip link add a-dark type veth peer name dark-end
    here ip addr add 10.99.0.1/24 dev a-dark
    here ip link set a-dark up
    here ip link set dark-end up
    # Up, but nothing is plugged in.
    here ip link add a-loose type veth peer name loose-end
    here ip addr add 10.98.0.1/24 dev a-loose
    here ip link set a-loose up
    # An address of a link that is down.
    here ip link add a-down type veth peer name down-end
    here ip addr add 10.97.0.1/24 dev a-down
fi
here ip link set a0 up
over ip link set b0 up
[ "$look" != crowded ] || over ip route add 10.99.0.0/24 via 10.77.0.9 dev b0 onlink
# The cable is plugged in when both ends are up.
for _ in $(seq 200); do
    ip link show a0 | grep -q 'state UP' && break
    sleep 0.02
done

rank() { # rank, host
    printf '%s 4 %s %s %s\n' "$1" "$interfaces" "$family" "$place" | $2 "$program" $arguments &
    ranks="${ranks:-} $!"
}
rank 0 here
rank 1 over
rank 2 here
rank 3 over
for one in $ranks; do wait "$one"; done
