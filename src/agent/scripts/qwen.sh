# Starts or resumes Qwen Code; "$@" are further arguments. The prompt comes by the environment and goes in by stdin, so that
# nothing in it is read as a flag. It resumes exactly when this session was begun on this disk.
mkdir -p "$HOME/.qwen"
# By default it would call home, update itself, and let a second agent write a memory of the session after the work is done.
export QWEN_CODE_SYSTEM_SETTINGS_PATH="$HOME/.qwen/autovibe.json"
cat >"$QWEN_CODE_SYSTEM_SETTINGS_PATH" <<'SETTINGS'
{
  "general": {"enableAutoUpdate": false},
  "privacy": {"usageStatisticsEnabled": false},
  "telemetry": {"enabled": false},
  "memory": {"enableManagedAutoMemory": false, "enableManagedAutoDream": false}
}
SETTINGS
for file in "$HOME"/.qwen/projects/*/chats/"$AUTOVIBE_SESSION".jsonl; do
  if grep -qs '"type":"user"' "$file"; then
    exec qwen -p "$AUTOVIBE_CONTINUE" --resume "$AUTOVIBE_SESSION" "$@" </dev/null
  fi
done
printf '%s' "$AUTOVIBE_PROMPT" | exec qwen --session-id "$AUTOVIBE_SESSION" "$@"
