#!/bin/sh
# Receives the WAL of a PostgreSQL server as it is written, for ever: pg_receivewal, started again whenever it ends.
#
# Reads WAL (the directory to write to), SLOT, PGHOST (the directory of the server's socket), PGPORT, PGUSER and RUN_AS.
# Each server and timeline has a directory of its own, <system identifier>-<timeline>: the WAL of a database that was
# restored to an earlier moment must never follow that of the one before. Runs as the server's user: segments that
# the server cannot read are lost without a word when they are needed. What the server has removed before it was received
# leaves a gap: what comes after it has a directory of its own too, <system identifier>-<timeline>.<number>.
set -u
. "$(dirname "$0")/lib.sh"
umask 077
export PGAPPNAME=recoup PGCONNECT_TIMEOUT=5

child=
gap=
said=$(mktemp) || exit 1
trap 'trap - TERM INT; [ -z "$child" ] || kill "$child" 2>/dev/null; wait; rm -f "$said"; exit 0' TERM INT

receive() {
  who=$($as_server psql -XAtq -F- "dbname=postgres replication=database" -c IDENTIFY_SYSTEM) || return 1
  first=$WAL/$(echo "$who" | cut -d- -f1,2)
  status=$($as_server psql -XAtq "dbname=postgres" \
    -c "SELECT wal_status FROM pg_replication_slots WHERE slot_name = '$SLOT'") || return 1
  if [ "$status" = lost ]; then
    echo "the slot $SLOT is lost: the server has removed WAL that was not received; the slot is made anew"
    $as_server pg_receivewal --no-password --slot="$SLOT" --drop-slot || return 1
    gap=yes
  fi
  number=0
  while [ -d "$first.$((number + 1))" ]; do number=$((number + 1)); done
  # pg_receivewal goes on behind what is in the directory, and for ever asks for what the server no longer has.
  if [ -n "$gap" ] && [ -d "$first" ]; then number=$((number + 1)); fi
  directory=$first
  if [ "$number" -gt 0 ]; then directory=$first.$number; fi
  own "$directory" || return 1
  gap=
  $as_server pg_receivewal --no-password --slot="$SLOT" --create-slot --if-not-exists || return 1
  # A disk that was full, or a kill, may have left a segment too short for pg_receivewal, which would refuse it for ever.
  size=$($as_server psql -XAtq "dbname=postgres replication=database" -c 'SHOW wal_segment_size') || return 1
  bytes=$(($(echo "$size" | sed 's/MB$/ * 1048576/; s/GB$/ * 1073741824/')))
  for file in "$directory"/*.partial; do
    # One of the right size keeps the time at which something was last received into it.
    if [ -s "$file" ] && [ "$(wc -c <"$file")" -ne "$bytes" ]; then
      $as_server truncate -s "$bytes" "$file" || return 1
    fi
  done
  echo "receiving into $directory"
  # Written and reported at once: a server that waits for this one waits no longer than for its own disk.
  $as_server pg_receivewal --no-loop --no-password --synchronous --slot="$SLOT" --directory="$directory" 2>"$said" &
  child=$!
  wait "$child"
  cat "$said" >&2
  if grep -q "has already been removed" "$said"; then
    echo "a gap: the server no longer has the WAL that comes next"
    gap=yes
  fi
}

own "$WAL" || exit 1
cd "$WAL" || exit 1
pause=1
while :; do
  began=$(date +%s)
  receive
  child=
  # One that worked for a while is tried again at once; one that keeps failing, ever less often.
  if [ $(($(date +%s) - began)) -gt 10 ]; then pause=1; fi
  echo "not receiving; trying again in $pause s"
  sleep "$pause" &
  wait $!
  pause=$((pause < 8 ? pause * 2 : 8))
done
