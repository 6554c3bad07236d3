# Removes what a command wrote. Args: its id, `kill` to end it where it runs.
if [ "${2:-}" = kill ] && read -r at session <"$dir/session" && [ "$at" = "$boot" ]; then kill -KILL "-$session"; fi 2>/dev/null
# Under another name first: what keeps its streams may still write there that they have ended.
mv "$dir" "$dir.gone" 2>/dev/null
rm -rf "$dir.gone" "$dir"
