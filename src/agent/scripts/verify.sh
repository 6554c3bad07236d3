# Runs a command in the workspace as the agent's user; its exit code is the verdict. Args: timeout in seconds, workspace, command.
limit=$1 workspace=$2
shift 2
cd "$workspace" || exit 127
(
  if [ -e "$state/agent.env" ]; then . "$state/agent.env"; fi
  [ -d "${HOME:-/nonexistent}" ] || export HOME=/root
  as_agent timeout -s KILL "$limit" "$@"
) </dev/null >"$state/verify.log" 2>&1
code=$?
tail -c 4000 "$state/verify.log"
exit "$code"
