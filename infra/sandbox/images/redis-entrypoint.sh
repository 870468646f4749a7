#!/bin/sh
# What the official image's entrypoint does: the server runs as user redis, anything else as it is.
set -e
case ${1:-} in *.conf | -*) set -- redis-server "$@" ;; esac
if [ "${1:-}" = redis-server ] && [ "$(id -u)" = 0 ]; then
  find . \! -user redis -exec chown redis:redis '{}' +
  exec setpriv --reuid=redis --regid=redis --init-groups "$0" "$@"
fi
umask 0077
exec "$@"
