# Prints `state=none|running|exited`, `launch=N` and, when it is known, `exit=CODE`.
n=$(cat "$state/launched" 2>/dev/null)
if [ -z "$n" ]; then echo state=none; exit 0; fi
if ! find_exit "$n" && find_launch "$n" && ! find_exit "$n"; then
  printf 'state=running\nlaunch=%s\n' "$n"
  exit 0
fi
# Without an exit code: the power was cut, or someone killed the wrapper.
printf 'state=exited\nlaunch=%s\n' "$n"
if find_exit "$n"; then echo "exit=$code"; fi
