# Starts the agent detached, once per launch number. Stdin: the key of the launch,
# then `export K='v'` lines. Args: launch number, the agent's argv.
n=$1
shift
before=$(cat "$state/launched" 2>/dev/null)
if [ -n "$before" ] && [ "$before" != "$n" ] && find_launch "$before"; then
  if ! find_exit "$before"; then rm -f "$state/agent.sh.$$"; echo "launch $before still runs" >&2; exit 75; fi
  kill -KILL "-$wrapper" 2>/dev/null # it only waits for the gateway
fi
if ! mkdir "$state/launch.$n" 2>/dev/null; then rm -f "$state/agent.sh.$$"; exit 0; fi
echo "$n" >"$state/launched"
IFS= read -r key
(
  umask 077
  printf '%s\n' "$key" >"$state/runner.key.tmp"
)
mv "$state/runner.key.tmp" "$state/runner.key"
(
  umask 027
  cat >"$state/agent.env.tmp"
)
if has_user; then chown "root:$(id -g "$user")" "$state/agent.env.tmp"; fi
mv "$state/agent.env.tmp" "$state/agent.env"
mv "$state/agent.sh.$$" "$state/agent.sh"
setsid sh "$state/agent.sh" start "$n" "$@" </dev/null >/dev/null 2>&1 &
tries=0
until [ -e "$state/launch.$n/pid" ]; do
  tries=$((tries + 1))
  [ "$tries" -lt 200 ] || exit 1
  nap
done
