#!/usr/bin/env bash
# A private PostgreSQL for tests and benches, in a folder and on a port of its own.
#
#   postgres.sh start    starts it (makes the cluster first if there is none) and prints its address
#   postgres.sh stop     stops it
#   postgres.sh kill     ends it at once: the next start recovers
#   postgres.sh status   tells whether it runs
#
# HEADWATER_SERVICES names the folder (default: ~/.cache/headwater/services), HEADWATER_POSTGRES_PORT the port (25432),
# HEADWATER_POSTGRES_DURABLE=1 makes a cluster that syncs its writes, for comparisons.
set -euo pipefail

durable=${HEADWATER_POSTGRES_DURABLE:-0}
services=${HEADWATER_SERVICES:-$HOME/.cache/headwater/services}
port=${HEADWATER_POSTGRES_PORT:-25432}
bin=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -1)
data=$services/postgres-$port-$durable

# initdb and postgres refuse to run as root: a user of their own does it then, and the data is where it may go.
as=()
if [ "$(id -u)" = 0 ]; then
  id -u headwater-postgres >/dev/null 2>&1 || useradd --system --create-home headwater-postgres
  as=(setpriv --reuid=headwater-postgres --regid=headwater-postgres --init-groups --reset-env)
  data=/var/tmp/headwater-services/postgres-$port-$durable
  # That user may not be allowed to be where we are.
  cd /
fi

start() {
  if ! "${as[@]}" "$bin/pg_ctl" -D "$data" status >/dev/null 2>&1; then
    if [ ! -e "$data/PG_VERSION" ]; then
      rm -rf "$data"
      mkdir -p "$data"
      [ "$(id -u)" = 0 ] && chown headwater-postgres "$data"
      "${as[@]}" "$bin/initdb" -D "$data" -A trust -U postgres --no-sync -E UTF8 --locale=C.UTF-8 >/dev/null
      {
        echo "port=$port"
        echo "listen_addresses='127.0.0.1'"
        echo "unix_socket_directories=''"
        echo "timezone='UTC'"
        echo "wal_level=logical"
        if [ "$durable" = 0 ]; then printf 'fsync=off\nfull_page_writes=off\n'; fi
      } >>"$data/postgresql.conf"
    fi
    # Without fsync a write still outlives the processes, as long as a commit waits for it: `kill` has to lose nothing.
    "${as[@]}" "$bin/pg_ctl" -D "$data" -l "$data/log" -o '-c synchronous_commit=on' -w start >/dev/null
  fi
  echo "127.0.0.1:$port"
}

case "${1:-}" in
  start) start ;;
  stop) if [ -e "$data/PG_VERSION" ]; then "${as[@]}" "$bin/pg_ctl" -D "$data" -m fast stop >/dev/null || true; fi ;;
  kill) "${as[@]}" "$bin/pg_ctl" -D "$data" -m immediate stop >/dev/null ;;
  status) "${as[@]}" "$bin/pg_ctl" -D "$data" status ;;
  *) sed -n '2,9p' "$0" >&2; exit 2 ;;
esac
