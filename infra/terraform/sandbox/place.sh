#!/bin/sh
# Makes or removes one place of a sandbox: KIND (network, volume, directory), NAME, SANDBOX (whose it is) and OWNER come
# in the environment. Both can be repeated. What does not carry this sandbox's label is neither taken over nor removed.
set -eu

label=io.recoup.sandbox
mark=.recoup-sandbox

fail() {
  echo "place.sh: $*" >&2
  exit 1
}

# Whose the place is; nothing where it is not there. A question that was not answered is not "not there".
owner() {
  case $KIND in
  network | volume)
    docker version >/dev/null 2>&1 || fail "the Docker engine does not answer"
    found=$(docker "$KIND" inspect --format "of {{index .Labels \"$label\"}}" "$NAME" 2>/dev/null) || return 0
    [ "$found" = "of " ] && echo nobody || echo "${found#of }"
    ;;
  directory)
    # An empty one without a mark is what a make that was cut short leaves.
    [ -d "$NAME" ] || return 0
    if [ -s "$NAME/$mark" ]; then cat "$NAME/$mark"; elif rmdir "$NAME" 2>/dev/null; then return 0; else echo nobody; fi
    ;;
  *) fail "there is no kind $KIND" ;;
  esac
}

[ -n "${NAME:-}" ] && [ -n "${SANDBOX:-}" ] || fail "NAME and SANDBOX must be set"
there=$(owner)

case ${1:-} in
make)
  [ -z "$there" ] || [ "$there" = "$SANDBOX" ] || fail "$KIND $NAME is there and belongs to $there, not to $SANDBOX"
  [ -z "$there" ] || exit 0
  case $KIND in
  directory)
    mkdir -p "$NAME"
    [ -z "${OWNER:-}" ] || [ "$(id -u)" -ne 0 ] || chown "$OWNER" "$NAME"
    printf '%s\n' "$SANDBOX" >"$NAME/$mark"
    ;;
  *) docker "$KIND" create --label "$label=$SANDBOX" "$NAME" >/dev/null ;;
  esac
  ;;
remove)
  [ -n "$there" ] || exit 0
  [ "$there" = "$SANDBOX" ] || fail "$KIND $NAME belongs to $there, not to $SANDBOX: it is left"
  case $KIND in
  directory) rm -rf -- "$NAME" ;;
  *) docker "$KIND" rm "$NAME" >/dev/null ;;
  esac
  ;;
*) fail "make or remove" ;;
esac
