# Starts or resumes Claude Code; "$@" are further arguments. The prompt comes by the environment and goes in by stdin, so that
# nothing in it is read as a flag. It resumes exactly when this session was begun on this disk.
for file in "$HOME"/.claude/projects/*/"$AUTOVIBE_SESSION".jsonl; do
  if grep -qs '"type":"user"' "$file"; then
    exec claude -p "$AUTOVIBE_CONTINUE" --resume "$AUTOVIBE_SESSION" --permission-mode bypassPermissions "$@"
  fi
done
printf '%s' "$AUTOVIBE_PROMPT" | exec claude -p --session-id "$AUTOVIBE_SESSION" --permission-mode bypassPermissions "$@"
