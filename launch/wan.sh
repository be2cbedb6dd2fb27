#!/usr/bin/env bash
# A run on this machine whose clients live behind slow links: every client rank in a network namespace of its own,
# joined by a veth pair that tc slows, to a hub where servers and aggregator are. Root only; cleans up after itself.
#
#   CLIENTS=2 UP_MBIT=20 DOWN_MBIT=100 DELAY_MS=40 launch/wan.sh my.yaml codec=video --out runs/wan
#
# Everything clients send and receive is slowed: packets, adapters, reports. Where the kernel has no netem for the
# delay, runtime.link.delay_ms gives it to packets and averaging inside the processes.
set -euo pipefail
clients=${CLIENTS:-2} servers=${SERVERS:-1}
up=${UP_MBIT:-20} down=${DOWN_MBIT:-100} delay=${DELAY_MS:-40} port=${PORT:-29500}
[ "$(id -u)" = 0 ] || { echo "error: launch/wan.sh makes network namespaces: run it as root" >&2; exit 2; }
id=splitcom$$ net=10.213.77 python=${PYTHON:-python3} ranks=$((clients + servers + 1)) pids=() extra=()

# shellcheck disable=SC2317 # the trap calls it
clean_up() {
    trap '' EXIT INT TERM
    kill "${pids[@]:1}" 2>/dev/null || true # the ranks, which checkpoint and leave; they need the store for that
    for _ in $(seq 300); do
        kill -0 "${pids[@]:1}" 2>/dev/null || break # none is left
        sleep 0.1
    done
    kill "${pids[@]:0:1}" 2>/dev/null || true
    kill -KILL "${pids[@]:1}" 2>/dev/null || true
    wait
    for name in hub $(seq 0 $((clients - 1))); do ip netns del "$id-$name" 2>/dev/null || true; done # and their veths
}
trap clean_up EXIT
trap 'exit 130' INT TERM

slow() { # NAMESPACE MBIT; a queue of 16 MB, so that nothing is dropped
    ip netns exec "$id-$1" tc qdisc add dev "$2" root handle 1: tbf rate "$3mbit" burst 32kb limit 16mb
    ip netns exec "$id-$1" tc qdisc add dev "$2" parent 1:1 netem delay "${delay}ms" limit 20000 2>/dev/null ||
        extra=("runtime.link.delay_ms=$delay")
}

ip netns add "$id-hub"
ip -n "$id-hub" link add name hub type bridge
ip -n "$id-hub" addr add "$net.1/24" dev hub
ip -n "$id-hub" link set lo up
ip -n "$id-hub" link set hub up
for client in $(seq 0 $((clients - 1))); do
    ip netns add "$id-$client"
    ip -n "$id-hub" link add name "c$client" type veth peer name wan netns "$id-$client"
    ip -n "$id-hub" link set "c$client" master hub up
    ip -n "$id-$client" addr add "$net.$((client + 10))/24" dev wan
    ip -n "$id-$client" link set lo up
    ip -n "$id-$client" link set wan up
    slow "$client" wan "$up"
    slow hub "c$client" "$down"
done

start() { # NAMESPACE DEVICE COMMAND...
    MASTER_ADDR=$net.1 MASTER_PORT=$port WORLD_SIZE=$ranks LOCAL_WORLD_SIZE=$ranks \
        TORCHELASTIC_USE_AGENT_STORE=True GLOO_SOCKET_IFNAME=$2 ip netns exec "$id-$1" "${@:3}" &
    pids+=($!)
}
store="import threading, torch.distributed as dist
store = dist.TCPStore('$net.1', $port, is_master=True, wait_for_workers=False)
threading.Event().wait()"
start hub hub "$python" -c "$store" # in the hub, so that no client's link carries what the others ask it
train=("$python" -m splitcom_dist train "$@" "roles.client_ranks=$clients" "roles.server_ranks=$servers" "${extra[@]}")
for client in $(seq 0 $((clients - 1))); do RANK=$client start "$client" wan "${train[@]}"; done
for rank in $(seq "$clients" $((ranks - 1))); do RANK=$rank start hub hub "${train[@]}"; done
code=0
for pid in "${pids[@]:1}"; do wait "$pid" || code=$?; done
exit "$code"
