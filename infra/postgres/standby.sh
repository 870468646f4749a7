#!/bin/sh
# One of a pair of PostgreSQL servers that share the directory of their sockets, each with a port of its own.
#
#   standby.sh role              says what the data directory would make of the server: primary, standby, fenced or empty
#   standby.sh state             says what the control file tells of the server: "shut down", "in production", …
#   standby.sh fence LABEL       lets a stopped server never take writes again, whoever starts it; also one without data
#   standby.sh clone             makes the data directory, empty or merely fenced, a copy of the other one's that follows it
#   standby.sh follow            lets a fenced server whose history is the other one's follow it
#   standby.sh serve PROGRAM …   becomes PROGRAM, on a copy of the other one's data where there are none yet
#
# Reads PGDATA, RUN_AS, and for clone, follow and serve: PGUSER (the superuser), SOCKETS (their directory), PEER_PORT (the
# other one's port) and SLOT. Under standby.signal PostgreSQL takes no writes (manual, section 27.2.2), and where nothing
# but that file is, neither initdb nor an image's entry point makes a new cluster.
set -eu
. "$(dirname "$0")/lib.sh"
umask 077
# The standby's data are made here, and moved up when they are whole.
making=$PGDATA/.recoup-clone

role() {
  if [ -d "$making" ]; then
    echo empty
  elif [ -f "$PGDATA/.recoup-fenced" ]; then
    echo fenced
  elif [ ! -s "$PGDATA/PG_VERSION" ]; then
    echo empty
  elif [ -f "$PGDATA/standby.signal" ]; then
    echo standby
  else
    echo primary
  fi
}

flush() { sync -f "$PGDATA" 2>/dev/null || sync; }

fence() {
  own "$PGDATA"
  # shellcheck disable=SC2016  # for the other shell
  # Empty ones need no room on a disk that may be full; whose they are is good to know, and no more.
  $as_server sh -c ': >"$1/standby.signal" && : >>"$1/.recoup-fenced" && { echo "$2" >"$1/.recoup-fenced" || :; }' - \
    "$PGDATA" "$1"
  flush
  [ -f "$PGDATA/standby.signal" ]
}

connection() { echo "host=$SOCKETS port=$PEER_PORT user=$PGUSER application_name=$1"; }

# By its name the other one tells who follows it from who only copies it.
let_follow() {
  # shellcheck disable=SC2016
  $as_server sh -c 'printf "primary_conninfo = '\''%s'\''\nprimary_slot_name = '\''%s'\''\n" "$2" "$3" \
    >>"$1/postgresql.auto.conf" && : >"$1/standby.signal"' - "$1" "$(connection "$SLOT")" "$SLOT"
}

make_slot() {
  $as_server psql -XAtq "$(connection recoup) dbname=postgres" <<SQL
SELECT pg_create_physical_replication_slot('$SLOT', true)
WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = '$SLOT');
SQL
}

clone() {
  own "$PGDATA"
  chmod 700 "$PGDATA"
  # What a killed recovery began may still run: two copies in one directory would be neither. Held by all it starts.
  exec 9<"$PGDATA"
  flock 9
  # What an attempt before has left is a copy, and half of one.
  if [ -d "$making" ]; then find "$PGDATA" -mindepth 1 -maxdepth 1 -exec rm -rf {} +; fi
  if [ -n "$(find "$PGDATA" -mindepth 1 -maxdepth 1 ! -name standby.signal ! -name .recoup-fenced)" ]; then
    echo "$PGDATA is not empty" >&2
    exit 9
  fi
  $as_server mkdir "$making"
  $as_server pg_basebackup --no-password --dbname="$(connection recoup-copy)" --pgdata="$making" --slot="$SLOT" \
    --checkpoint=fast --label=recoup-standby
  let_follow "$making"
  # The signal first and the control file last: half of it is never started as a server that takes writes.
  # shellcheck disable=SC2016
  $as_server sh -c 'mv "$1/standby.signal" "$2" && mv "$1/global/pg_control" "$1/pg_control" &&
    find "$1" -mindepth 1 -maxdepth 1 ! -name pg_control -exec mv {} "$2" \; && mv "$1/pg_control" "$2/global" &&
    rm -f "$2/.recoup-fenced" && rmdir "$1"' - "$making" "$PGDATA"
  flush
}

follow() {
  [ "$(role)" = fenced ]
  let_follow "$PGDATA"
  $as_server rm "$PGDATA/.recoup-fenced"
  flush
}

case $1 in
  role) role ;;
  state) pg_controldata -D "$PGDATA" 2>/dev/null | sed -n 's/^Database cluster state: *//p' ;;
  fence) fence "$2" ;;
  clone) clone ;;
  follow) follow ;;
  serve)
    shift
    until [ "$(role)" != empty ] || { make_slot && sh "$0" clone; }; do
      echo "the server at port $PEER_PORT cannot be copied yet"
      sleep 1
    done
    exec "$@"
    ;;
  *)
    echo "unknown: $1" >&2
    exit 2
    ;;
esac
