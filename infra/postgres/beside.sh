#!/bin/sh
# A PostgreSQL server beside the one in use. It is reached by the socket in PLACE/s alone, and ends, in good order, when
# standard input does: whoever asked for it is gone then.
#
#   beside.sh new                  an empty cluster, thrown away afterwards (fsync is off)
#   beside.sh replay TARGET SET…   the base backup SET (a full one, then the incrementals on it, each a directory) unpacked
#                                  into the empty directory TARGET (empty: PGDATA), verified, and, when PLACE/go is there,
#                                  WAL replayed on it until RECOVERY says to stop (what PLACE/go says is why not to);
#                                  at the end TARGET is a data directory, whole and on the disk
#
# Reads PLACE, OWNER (the superuser), RUN_AS, LABEL (names this recovery), WALS (directories of received WAL, the newest first, each ended by a
# colon), RECOVERY (settings, one on each line). Says what it does in PLACE/progress.
set -eu
. "$PLACE/lib.sh"
umask 077
cd /
exec 3<&0

say() {
  echo "$*" >"$PLACE/progress.new"
  mv -f "$PLACE/progress.new" "$PLACE/progress"
}

sockets=$PLACE/s
work=$PLACE/w
own "$sockets" "$work"
chmod 711 "$sockets"
# Made by the server's user: whoever asked may not be able to remove them.
trap 'rm -rf "$work" "$sockets"' EXIT
trap 'exit 143' TERM
# Until a server runs that can be asked to end: whoever asked may be gone, and begin again in the same directory.
(cat <&3 >/dev/null; kill -TERM 0) &
alone=$!

# Larger pieces than the 10 KB that are tar's own: a fifth less work for the kernel.
pieces=
if tar --version 2>/dev/null | grep -q GNU; then pieces=--blocking-factor=512; fi

unpack() {
  # shellcheck disable=SC2086  # an option or nothing
  $as_server tar $pieces -xf - -C "$1"
}

# What is written below a directory goes to the disk while more of it comes, so that little is left to wait for at the
# end. Holds no lock, and ends with this script, however that ends.
flush() {
  rm -f "$work/written"
  if ! sync -d "$PLACE/lib.sh" 2>/dev/null; then return; fi
  (while [ ! -e "$work/written" ] && kill -0 $$ 2>/dev/null; do
    sleep 0.2 || sleep 1
    # The small ones, of which there may be very many, can wait for the end.
    [ ! -d "$1" ] || find "$1" -type f -size +256k -exec sync -d {} + || exit 1
  done) 3<&- 9>&- >&2 &
  flusher=$!
}

# The kernel tells an error of the disk to the first who asks, and to nobody after: it must not be lost here.
flushed() {
  [ -n "$flusher" ] || return 0
  : >"$work/written"
  if ! wait "$flusher"; then
    echo "what was unpacked could not be written to the disk" >&2
    exit 1
  fi
  flusher=
}

decompressed() {
  for file in "$1"/base/base.tar*; do
    case $file in
      *.zst) zstd -dcq "$file" ;;
      *.lz4) lz4 -dcq "$file" ;;
      *.gz) gzip -dc "$file" ;;
      *) cat "$file" ;;
    esac
  done
}

serve() {
  data=$1
  shift
  printf 'local all all trust\nlocal replication all trust\n' >"$work/hba.conf"
  if [ "$(id -u)" = 0 ]; then chown "$server_user" "$work/hba.conf"; fi
  $as_server postgres -D "$data" -c listen_addresses= -c port=5432 -c "unix_socket_directories=$sockets" \
    -c unix_socket_permissions=0777 -c "hba_file=$work/hba.conf" -c logging_collector=off -c log_destination=stderr \
    -c ssl=off -c archive_mode=off -c dynamic_shared_memory_type=mmap -c external_pid_file= \
    -c synchronous_standby_names= -c fsync=off -c full_page_writes=off "$@" </dev/null >"$PLACE/server.log" 2>&1 &
  server=$!
  kill "$alone" 2>/dev/null || true
  # Again and again: a server that is only just starting does not heed it yet.
  (cat <&3 >/dev/null; while kill -INT "$server" 2>/dev/null; do sleep 0.2 || sleep 1; done) &
  waiting=$!
  code=0
  wait "$server" || code=$?
  kill "$waiting" 2>/dev/null || true
  if [ "$code" != 0 ]; then
    tail -n 12 "$PLACE/server.log" >&2
    exit "$code"
  fi
}

case $1 in
  new)
    say "making an empty server"
    $as_server initdb -D "$work/data" -U "$OWNER" --auth=trust --encoding=UTF8 --locale=C --no-sync --no-instructions \
      >/dev/null
    say "the server starts"
    serve "$work/data" -c wal_level=minimal -c max_wal_senders=0 -c max_wal_size=16GB -c autovacuum=off
    ;;
  replay)
    target=${2:-$PGDATA}
    shift 2
    own "$target"
    chmod 700 "$target"
    # Only what an attempt of the same recovery left is removed, once nothing of that attempt runs any more: half-made, or
    # finished for nobody and never started since.
    checkpoint() { $as_server pg_controldata -D "$target" 2>/dev/null | sed -n 's/^Latest checkpoint location: *//p'; }
    if [ -n "$(ls -A "$target")" ]; then
      if [ -f "$target/.recoup-making" ]; then
        say "waiting until the attempt before has ended"
        exec 9<"$target/.recoup-making"
        flock 9
      fi
      case $(cat "$target/.recoup-making" 2>/dev/null) in
        "making $LABEL" | "made $LABEL $(checkpoint)") ;;
        *)
          echo "$target is not empty" >&2
          exit 9
          ;;
      esac
      find "$target" -mindepth 1 -maxdepth 1 ! -name .recoup-making ! -name recovery.signal -exec rm -rf {} +
    fi
    $as_server sh -c 'echo "making $2" >"$1/.recoup-making"' - "$target" "$LABEL"
    # Held by all that this script starts.
    exec 9<"$target/.recoup-making"
    flock 9
    # From the first file on: a server that finds it, and is not told how to recover, refuses to start. Without it, one
    # that is started on half of a recovery would serve what the base backup held, and nothing since.
    $as_server sh -c ': >"$1/recovery.signal"' - "$target"
    case $target in "$work"/*) durable= ;; *) durable=yes ;; esac
    flusher=
    count=$#
    if [ "$count" = 1 ] && [ "$durable" ]; then flush "$target"; fi
    chain=
    number=0
    for set in "$@"; do
      number=$((number + 1))
      if [ "$count" = 1 ]; then into=$target; else into=$target/.recoup-chain-$number; own "$into"; chmod 700 "$into"; fi
      say "unpacking $(basename "$set") ($number of $count)"
      decompressed "$set" | unpack "$into"
      $as_server sh -c 'cat >"$1"' - "$into/backup_manifest" <"$set/base/backup_manifest"
      say "verifying $(basename "$set") against its manifest"
      $as_server pg_verifybackup --quiet --exit-on-error --ignore=.recoup-making "$into" >&2
      chain="$chain $into"
    done
    if [ "$count" != 1 ]; then
      say "combining $count backups"
      if [ "$durable" ]; then flush "$target/.recoup-combined"; fi
      # shellcheck disable=SC2086  # places of our own making, without spaces unless the data directory has some
      $as_server pg_combinebackup --no-sync --output="$target/.recoup-combined" $chain >&2
      flushed
      $as_server sh -c 'rm -rf "$1"/.recoup-chain-* && mv "$1"/.recoup-combined/* "$1" && rmdir "$1/.recoup-combined"' \
        - "$target"
    fi
    flushed
    # Segments the server cannot read are lost without a word: it would take the first of them for the end of the WAL.
    if [ "$(id -u)" = 0 ]; then
      readable=
      IFS=:
      for d in $WALS; do
        # shellcheck disable=SC2016  # for the other shell
        if ! (unset IFS; $as_server sh -c 'cd "$1" && for f in *; do [ -r "$f" ] || exit 1; done' - "$d"); then
          say "copying WAL that the server's user cannot read"
          mkdir -p "$work/wal"
          cp -R "$d" "$work/wal/"
          d=$work/wal/$(basename "$d")
          chown -R "$server_user" "$work/wal"
        fi
        readable=$readable$d:
      done
      unset IFS
      WALS=$readable
    fi
    segment=$($as_server pg_controldata -D "$target" | sed -n 's/^Bytes per WAL segment: *//p')
    # shellcheck disable=SC2016  # the words are for the script that is written
    {
      printf 'wals=%s size=%s\n' "'$WALS'" "$segment"
      echo 'IFS=:'
      # What was being received when the server died comes after what is whole, and may be whole a moment later.
      echo 'for s in "" .partial ""; do for d in $wals; do'
      echo '  [ -f "$d/$1$s" ] || continue'
      # More than 125 ends the recovery; anything else would be taken for the end of the WAL.
      echo '  cp "$d/$1$s" "$2" || { [ ! -f "$d/$1$s" ] || exit 255; continue; }'
      # A disk without room for the rest leaves one that is too short, and PostgreSQL takes none of another size.
      echo '  [ "$s" = "" ] || truncate -s "$size" "$2" || exit 255'
      echo '  exit 0'
      echo 'done; done'
      echo 'exit 1'
    } >"$work/fetch-wal"
    if [ "$(id -u)" = 0 ]; then chown "$server_user" "$work/fetch-wal"; fi
    rm -f "$target/standby.signal"
    # What the WAL was written with must not be undercut, whatever file the settings stand in.
    control() { $as_server pg_controldata -D "$target" | sed -n "s/^$1 setting: *//p"; }
    connections=$(control max_connections) processes=$(control max_worker_processes) senders=$(control max_wal_senders)
    prepared=$(control max_prepared_xacts) locks=$(control max_locks_per_xact)
    set -- -c "restore_command=sh '$work/fetch-wal' %f %p" -c recovery_target_action=promote -c hot_standby=on \
      -c recovery_target_timeline=latest -c "max_connections=$connections" -c "max_worker_processes=$processes" \
      -c "max_wal_senders=$senders" -c "max_prepared_transactions=$prepared" -c "max_locks_per_transaction=$locks"
    while IFS= read -r line; do
      [ -z "$line" ] || set -- "$@" -c "$line"
    done <<EOF
$RECOVERY
EOF
    say "waiting until the WAL was looked through"
    while [ ! -e "$PLACE/go" ]; do sleep 0.1 || sleep 1; done
    if [ -s "$PLACE/go" ]; then
      cat "$PLACE/go" >&2
      exit 10
    fi
    say "replaying WAL"
    serve "$target" "$@"
    # Promoted, it would start like any other, though nobody has said yet that it may.
    $as_server sh -c ': >"$1/recovery.signal"' - "$target"
    if [ "$durable" ]; then
      say "writing everything to the disk"
      $as_server initdb --sync-only -D "$target" >/dev/null
      # The mark goes when the service is started: whoever asked for this may be dead by now.
      $as_server sh -c 'echo "made $2 $3" >"$1/.recoup-making"' - "$target" "$LABEL" "$(checkpoint)"
    fi
    ;;
  *)
    echo "unknown: $1" >&2
    exit 2
    ;;
esac
