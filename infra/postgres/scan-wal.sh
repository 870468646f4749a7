#!/bin/sh
# Looks through received WAL with pg_waldump, which wants every segment in one directory, whole names, one timeline.
#
#   scan-wal.sh TIMELINE LSN end XID   the first record from LSN on that ends the transaction XID
#   scan-wal.sh TIMELINE LSN commit    the last one that ends any
#   scan-wal.sh TIMELINE LSN last      the last one of any kind
#   scan-wal.sh TIMELINE LSN place     the version of the programs here; the first record that makes a tablespace
#
# Reads from standard input a line NAME<tab>PATH for each segment: the file, and the name it is to have. What cannot be
# read is the end of the WAL, as it is for a server. Prints one line of pg_waldump, or nothing.
set -u
export TZ=UTC LC_ALL=C
command -v pg_waldump >/dev/null || {
  echo "there is no pg_waldump beside the server" >&2
  exit 127
}
timeline=$1 lsn=$2 what=$3 xid=${4:-}
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
tab=$(printf '\t')
while IFS=$tab read -r name path; do
  case $path in
    # It may get its final name at any moment.
    *.partial) cp "$path" "$work/$name" 2>/dev/null || cp "${path%.partial}" "$work/$name" || exit 1 ;;
    *) ln -s "$path" "$work/$name" || exit 1 ;;
  esac
done

dump() {
  pg_waldump --path="$work" --timeline="$timeline" --start="$lsn" "$@" 2>/dev/null
}

case $what in
  end) dump --rmgr=Transaction | grep -E "tx: +$xid,.* desc: (COMMIT|ABORT) |desc: (COMMIT|ABORT)_PREPARED $xid:" | head -n 1 ;;
  commit) dump --rmgr=Transaction | grep -E 'desc: (COMMIT|ABORT)' | tail -n 1 ;;
  last) dump | tail -n 1 ;;
  place)
    pg_waldump --version
    dump --rmgr=Tablespace | grep 'desc: CREATE' | head -n 1
    ;;
  *) exit 2 ;;
esac
exit 0
