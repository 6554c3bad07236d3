# What a guest must learn that was off with its memory: the time, and what no copy of that memory knows. Args: seconds since 1970.
# Standard input: a seed.
now=$1
seed=$(cat)
[ -z "$root" ] || exit 0
drift=$((now - $(date +%s)))
if [ "$drift" -gt 2 ] || [ "$drift" -lt -2 ]; then date -u -s "@$now" >/dev/null || exit 1; fi
printf '%s%s' "$seed" "$now" >/dev/urandom
