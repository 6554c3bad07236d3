# Ends the agent: TERM, and KILL after 5 seconds. The wrapper writes down the exit code as ever.
n=$(cat "$state/launched" 2>/dev/null)
[ -n "$n" ] || exit 0
if find_launch "$n" && ! find_exit "$n"; then
  kill -TERM "-$child" 2>/dev/null
  tries=0
  until find_exit "$n" || [ "$tries" -ge 100 ]; do tries=$((tries + 1)); nap; done
  kill -KILL "-$child" 2>/dev/null
  tries=0
  until find_exit "$n" || [ "$tries" -ge 100 ]; do tries=$((tries + 1)); nap; done
fi
# Nothing else runs as the agent's user: what it left in the background goes too.
if [ -z "$root" ] && has_user; then (as_agent sh -c 'kill -KILL -1') 2>/dev/null; fi
exit 0
