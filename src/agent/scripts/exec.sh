# Runs a command for a person, as the agent's user or as root, where the agent works; prints the beginning of each of its streams, in base64.
# Args: timeout in seconds, `agent` or `root`, workspace, most bytes of a stream, command.
limit=$1 who=$2 workspace=$3 most=$4
shift 4
cd "$workspace" 2>/dev/null || cd /
status=$(mktemp) || exit 125
run() (
  if [ -e "$state/agent.env" ]; then . "$state/agent.env"; fi
  if [ "$who" = root ]; then export HOME=/root; exec timeout -s KILL "$limit" "$@"; fi
  [ -d "${HOME:-/nonexistent}" ] || export HOME=/root
  as_agent timeout -s KILL "$limit" "$@"
)
# All of a stream is read: a command is not ended for what it prints.
begin() { { head -c "$most"; cat >/dev/null; } | base64; }
{ { { run "$@" 3>&-; echo $? >"$status"; } | begin >&3; } 2>&1 | begin >&2; } 3>&1
code=$(cat "$status")
rm -f "$status"
exit "${code:-125}"
