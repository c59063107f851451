#!/bin/sh
# UCX's own measuring program between hosts 1 and 2, its active messages, as rows that `shoal peers` reads:
#   scripts/perftest.sh scripts/hosts.sh 8 1K 64M
# Of each size the shorter of a message's way in a ping-pong and of its share of a stream, which is only measured
# for large ones.
set -eu
on=$1
shift
version=$(ucx_info -v | sed -n "s/^# .*ersion \([0-9.]*\).*/\1/p" | head -n 1)
port=13337

# The fifth word of the last line is the average in microseconds.
run() {
  port=$((port + 1))
  "$on" on 1 ucx_perftest -p $port >/dev/null 2>&1 &
  server=$!
  # It says nothing when it listens.
  tries=0
  until said=$("$on" on 2 timeout 20 ucx_perftest -p $port "$@" 10.78.0.1 2>&1) && echo "$said" | grep -q '^Final:'; do
    tries=$((tries + 1))
    test $tries -lt 20 || { echo "$said" >&2; kill $server 2>/dev/null; exit 1; }
    sleep 0.05
  done
  wait $server || true
  echo "$said" | awk '/^Final:/ { print $5 }'
}

for size in "$@"; do
  case $size in
  *K) bytes=$((${size%K} * 1024)) ;;
  *M) bytes=$((${size%M} * 1048576)) ;;
  *) bytes=$size ;;
  esac
  # About a tenth of a second each.
  count=$((100000000 / (9000 + bytes)))
  test $count -ge 3 || count=3
  test $count -le 10000 || count=10000
  time=$(run -t ucp_am_lat -s $bytes -n $count -w 2)
  if [ $bytes -ge 1048576 ]; then
    stream=$(run -t ucp_am_bw -s $bytes -n $((count + 3)) -w 2)
    time=$(echo "$time $stream" | awk '{ print $1 < $2 ? $1 : $2 }')
  fi
  echo '{"library":"ucx_perftest '"$version"'","op":"sendrecv","type":"uint8","redop":"none","root":-1,"ranks":2,' \
    '"bytes":'$bytes',"count":'$bytes',"messages":1,"in_place":false,"time_us":'$time',"time_us_p99":'$time',' \
    '"algbw_gbps":0.0,"busbw_gbps":0.0,"iterations":'$count'}'
done
