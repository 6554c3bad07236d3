# Waits until the agent's transcript has the tool results, then syncs. Args: directory of session files (may be empty),
# tool_use ids with commas, longest wait in ms. Prints `flushed=true|false`.
dir=$1 ids=$2 left=$3
flushed=true
if [ -n "$dir" ]; then
  for id in $(printf %s "$ids" | tr , ' '); do
    # A result record names the id as tool_use_id (Claude Code) or callId (Qwen Code); the call itself names it as id.
    until grep -rqsF -e "\"tool_use_id\":\"$id\"" -e "\"callId\":\"$id\"" "$root$dir"; do
      left=$((left - 60))
      if [ "$left" -le 0 ]; then flushed=false; break 2; fi
      nap
    done
  done
fi
sync
echo "flushed=$flushed"
