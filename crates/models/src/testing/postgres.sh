# Runs a PostgreSQL of its own until standard input ends: sh postgres.sh PORT. What it keeps lies in a folder that goes with it.
set -eu

port=$1
for candidate in "$(command -v postgres || true)" /usr/lib/postgresql/*/bin/postgres; do
    if [ -x "$candidate" ]; then programs=$(dirname "$candidate"); fi
done
if [ -z "${programs:-}" ]; then
    echo "PostgreSQL is not installed; install it with: apt-get install postgresql" >&2
    exit 1
fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
# The server refuses to be root.
as_server=
if [ "$(id -u)" = 0 ]; then
    chown postgres "$folder"
    as_server="setpriv --reuid=postgres --regid=postgres --clear-groups --"
fi
cd "$folder"
$as_server "$programs/initdb" --pgdata="$folder/data" --username=larder --auth=trust --encoding=UTF8 --locale=C.UTF-8 \
    --no-sync >"$folder/initdb.log" 2>&1 || { cat "$folder/initdb.log" >&2; exit 1; }

# A test has no use for what survives a power cut.
$as_server "$programs/postgres" -D "$folder/data" -h 127.0.0.1 -p "$port" -k '' -c fsync=off -c full_page_writes=off \
    -c max_connections=200 -c log_min_messages=fatal >/dev/null 2>&1 &
server=$!
cat >/dev/null
kill -INT "$server"
wait "$server" || true
