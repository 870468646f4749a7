#!/bin/bash
# What the official image's entrypoint does, in the parts the sandbox relies on.
set -Eeuo pipefail

if [[ ${1:-} == -* ]]; then
  set -- postgres "$@"
fi
if [[ ${1:-} != postgres ]]; then
  exec "$@"
fi

if [[ $(id -u) == 0 ]]; then
  mkdir -p "$PGDATA" /var/run/postgresql
  chmod 00700 "$PGDATA"
  chmod 03775 /var/run/postgresql
  find "$PGDATA" /var/run/postgresql \! -user postgres -exec chown postgres:postgres '{}' +
  exec setpriv --reuid=postgres --regid=postgres --init-groups "$BASH_SOURCE" "$@"
fi

if [[ ! -s $PGDATA/PG_VERSION ]]; then
  : "${POSTGRES_PASSWORD:?}"
  user=${POSTGRES_USER:-postgres}
  database=${POSTGRES_DB:-$user}
  # shellcheck disable=SC2086  # the arguments are meant to be split
  initdb --pgdata="$PGDATA" --username="$user" --pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD") \
    --encoding=UTF8 --locale=C.UTF-8 ${POSTGRES_INITDB_ARGS:-}
  printf '\nhost all all all scram-sha-256\n' >>"$PGDATA/pg_hba.conf"

  # On the socket alone: nobody may take a database that is still being filled for one that is up.
  PGUSER=$user pg_ctl --pgdata="$PGDATA" --options="-c listen_addresses=''" --wait start
  psql=(psql --no-psqlrc --set=ON_ERROR_STOP=1 --no-password --username="$user")
  if [[ $database != postgres ]]; then
    "${psql[@]}" --dbname=postgres --set=db="$database" <<<'CREATE DATABASE :"db";'
  fi
  for file in /docker-entrypoint-initdb.d/*.sql; do
    [[ -e $file ]] || continue
    echo "running $file"
    "${psql[@]}" --dbname="$database" --quiet --file="$file"
  done
  PGUSER=$user pg_ctl --pgdata="$PGDATA" --mode=fast --wait stop
fi

unset POSTGRES_PASSWORD
exec "$@"
