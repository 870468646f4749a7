# shellcheck shell=sh disable=SC2034,SC2086
# What the scripts here share: becoming the server's user, which PostgreSQL's server programs demand.
# RUN_AS names it; in an image it is postgres. Plain sh: the images of PostgreSQL have nothing else for certain.
server_user=${RUN_AS:-postgres}

# A prefix and not a function: what runs behind it in the background has the very process id that $! gives.
if [ "$(id -u)" != 0 ]; then
  as_server=
elif setpriv --help 2>/dev/null | grep -q -- --reuid; then
  as_server="setpriv --reuid=$server_user --regid=$(id -g "$server_user") --clear-groups --"
elif command -v gosu >/dev/null; then
  as_server="gosu $server_user"
elif command -v su-exec >/dev/null; then
  as_server="su-exec $server_user"
else
  echo "no setpriv, gosu or su-exec here to become $server_user" >&2
  exit 127
fi

own() {
  mkdir -p "$@"
  if [ "$(id -u)" = 0 ]; then chown "$server_user:$(id -g "$server_user")" "$@"; fi
}
