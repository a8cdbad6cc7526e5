#!/usr/bin/env bash
# A private MariaDB for tests, in a folder and on a port of its own.
#
#   mariadb.sh start    starts it (makes its data first if there are none) and prints its address
#   mariadb.sh stop     stops it in order
#   mariadb.sh kill     SIGKILL: the next start recovers
#   mariadb.sh status   tells whether it runs
#
# HEADWATER_SERVICES names the folder (default: ~/.cache/headwater/services), HEADWATER_MARIADB_PORT the port (25306). User root
# has no password.
set -euo pipefail

port=${HEADWATER_MARIADB_PORT:-25306}
data=${HEADWATER_SERVICES:-$HOME/.cache/headwater/services}/mariadb-$port
as=()
if [ "$(id -u)" = 0 ]; then
  # It refuses to run as root; the package has made this user.
  data=/var/tmp/headwater-services/mariadb-$port
  as=(--user=mysql)
  cd /
fi

running() { [ -e "$data/pid" ] && kill -0 "$(cat "$data/pid")" 2>/dev/null && grep -q mariadbd "/proc/$(cat "$data/pid")/cmdline"; }

answers() { mariadb-admin --no-defaults -h127.0.0.1 -P"$port" -uroot ping >/dev/null 2>&1; }

start() {
  if ! running; then
    if [ ! -e "$data/made" ]; then
      rm -rf "$data"
      mkdir -p "$data"
      if [ "$(id -u)" = 0 ]; then chown mysql "$data"; fi
      mariadb-install-db --no-defaults "${as[@]}" --datadir="$data/d" --auth-root-authentication-method=normal --skip-test-db >/dev/null
      touch "$data/made"
    fi
    # A commit is with the operating system before it is told, so that `kill` loses nothing.
    setsid mariadbd --no-defaults "${as[@]}" --datadir="$data/d" --port="$port" --bind-address=127.0.0.1 --socket="$data/d/sock" \
      --pid-file="$data/d/mariadbd.pid" --innodb-flush-log-at-trx-commit=2 --innodb-buffer-pool-size=64M --skip-log-bin \
      >"$data/log" 2>&1 </dev/null &
    echo $! >"$data/pid"
    for _ in $(seq 600); do
      if ! running; then break; fi
      if answers; then break; fi
      sleep 0.1
    done
    if ! running || ! answers; then
      echo "MariaDB does not come up:" >&2
      tail -30 "$data/log" >&2
      return 1
    fi
  fi
  echo "127.0.0.1:$port"
}

# Ends it with a signal and waits until it is gone.
end() {
  if ! running; then return; fi
  local pid
  pid=$(cat "$data/pid")
  kill "-$1" "$pid"
  for _ in $(seq 600); do
    kill -0 "$pid" 2>/dev/null || return 0
    sleep 0.1
  done
  kill -KILL "$pid"
}

case "${1:-}" in
  start) start ;;
  stop) end TERM ;;
  kill) end KILL ;;
  status) running ;;
  *) sed -n '2,10p' "$0" >&2; exit 2 ;;
esac
