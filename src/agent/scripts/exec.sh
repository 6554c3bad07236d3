# Runs a command for a person, as the agent's user or as root, where the agent works, and exits as it did. Its streams go to files, the
# beginning of each. Args: id, timeout in seconds, `agent` or `root`, workspace, most bytes of a stream, command.
id=$1 limit=$2 who=$3 workspace=$4 blocks=$(($5 / 512 + 1))
shift 5
begin() (umask 077 && mkdir -p "${1%/*}" && mkdir "$1" && mkfifo "$1/1" "$1/2") 2>/dev/null
# Of a hub that died.
find "$root/run/autovibe" "$state" -maxdepth 1 -name 'exec.*' -mmin +180 -exec rm -rf {} + 2>/dev/null
begin "$dir" || { dir=$state/exec.$id && begin "$dir"; } || exit 125
cd "$workspace" 2>/dev/null || cd /
# All of a stream is read: a command is not ended for what it prints.
keep() {
  (ulimit -c 0; ulimit -f "$blocks"; exec cat >"$dir/$1") 2>/dev/null
  cat >/dev/null
  : >"$dir/$1.end"
}
run() (
  if [ -e "$state/agent.env" ]; then . "$state/agent.env"; fi
  # In a session of its own, which can be ended as a whole.
  exec 9>"$dir/session"
  # shellcheck disable=SC2016
  session='echo "$0 $$" >&9; exec 9>&-; exec timeout -s KILL "$@"'
  if [ "$who" = root ]; then export HOME=/root; exec setsid sh -c "$session" "$boot" "$limit" "$@"; fi
  [ -d "${HOME:-/nonexistent}" ] || export HOME=/root
  as_agent setsid sh -c "$session" "$boot" "$limit" "$@"
)
keep out <"$dir/1" >/dev/null 2>&1 &
keep err <"$dir/2" >/dev/null 2>&1 &
run "$@" >"$dir/1" 2>"$dir/2"
code=$?
# What it left running has its streams still; nobody waits for that.
tries=0
until { [ -e "$dir/out.end" ] && [ -e "$dir/err.end" ]; } || [ ! -d "$dir" ] || [ "$tries" -ge 20 ]; do tries=$((tries + 1)); nap; done
exit "$code"
