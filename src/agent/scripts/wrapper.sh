# Runs the agent, writes down how it ended, and tells the gateway. `start N ARGV…` in a session of its own; `agent ARGV…` inside.
mode=$1
shift
if [ "$mode" = agent ]; then
  . "$state/agent.env"
  [ -d "${HOME:-/nonexistent}" ] || export HOME=/root
  has_user && export USER="$user" LOGNAME="$user"
  cd "$AUTOVIBE_WORKSPACE" || exit 126
  as_agent "$@"
fi
n=$1
shift
workspace=$(. "$state/agent.env" && printf %s "$AUTOVIBE_WORKSPACE")
gateway=$(. "$state/agent.env" && printf %s "$AUTOVIBE_GATEWAY")
token=$(. "$state/agent.env" && printf %s "$AUTOVIBE_TOKEN")
if [ ! -d "$workspace" ]; then mkdir -p "$workspace" && own "$workspace"; fi
# The runner asks the hub before each tool, and answers for an agent that is not root.
runner=
if [ "${4:-}" = claude ] && has_user; then runner=$(command -v autovibe); fi
if [ -n "$runner" ]; then
  shift 4
  (
    . "$state/agent.env"
    exec setsid "$runner" guest --gateway="$AUTOVIBE_GATEWAY" --key="$state/runner.key" --home="$HOME" --session="$AUTOVIBE_SESSION" \
      --prompt="$AUTOVIBE_PROMPT" --go-on="$AUTOVIBE_CONTINUE" --script="$state/agent.sh" -- "$@"
  ) </dev/null >>"$state/agent.log" 2>&1 &
else
  setsid sh "$state/agent.sh" agent "$@" </dev/null >>"$state/agent.log" 2>&1 &
fi
child=$!
echo "$boot $$ $child" >"$state/launch.$n/pid.tmp"
mv "$state/launch.$n/pid.tmp" "$state/launch.$n/pid"
wait "$child"
code=$?
echo "$n $code" >"$state/exit.tmp"
mv "$state/exit.tmp" "$state/exit"
sync
report() {
  if command -v curl >/dev/null; then
    curl -sf -m 10 -o /dev/null -H "Authorization: Bearer $token" -H 'Content-Type: application/json' --data "$1" "$gateway/autovibe/v1/exit"
  else
    timeout 10 wget -q -O /dev/null --header "Authorization: Bearer $token" --header 'Content-Type: application/json' --post-data "$1" "$gateway/autovibe/v1/exit"
  fi
}
until [ -z "$gateway" ] || report "{\"launch\":$n,\"exitCode\":$code}"; do sleep 2; done
