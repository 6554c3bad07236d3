# Starts or resumes Qwen Code; "$@" are further arguments. The prompt comes by the environment and goes in by stdin, so that
# nothing in it is read as a flag. It resumes exactly when this session was begun on this disk.
mkdir -p "$HOME/.qwen"
# By default it would call home, update itself, and let a second agent write a memory of the session after the work is done.
export QWEN_CODE_SYSTEM_SETTINGS_PATH="$HOME/.qwen/autovibe.json"
# What it may ask of the hub; it reads the variables itself, so that the token is in no file.
tools=
# shellcheck disable=SC2016
if [ -n "${AUTOVIBE_MCP:-}" ]; then
  tools=', "mcpServers": {"autovibe": {"httpUrl": "$AUTOVIBE_MCP", "headers": {"Authorization": "Bearer $AUTOVIBE_TOKEN"}, "trust": true}}'
fi
cat >"$QWEN_CODE_SYSTEM_SETTINGS_PATH" <<SETTINGS
{
  "general": {"enableAutoUpdate": false},
  "privacy": {"usageStatisticsEnabled": false},
  "telemetry": {"enabled": false},
  "memory": {"enableManagedAutoMemory": false, "enableManagedAutoDream": false}$tools
}
SETTINGS
for file in "$HOME"/.qwen/projects/*/chats/"$AUTOVIBE_SESSION".jsonl; do
  if grep -qs '"type":"user"' "$file"; then
    exec qwen -p "$AUTOVIBE_CONTINUE" --resume "$AUTOVIBE_SESSION" "$@" </dev/null
  fi
done
printf '%s' "$AUTOVIBE_PROMPT" | exec qwen --session-id "$AUTOVIBE_SESSION" "$@"
