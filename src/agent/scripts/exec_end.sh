# Removes what a command wrote. Args: its id, `kill` to end it where it runs.
if [ "${2:-}" = kill ] && read -r at session <"$dir/session" && [ "$at" = "$boot" ]; then kill -KILL "-$session"; fi 2>/dev/null
rm -rf "$dir"
