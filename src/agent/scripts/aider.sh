# Starts or resumes Aider; "$@" are further arguments. The prompt goes in by a file, so that nothing in it is read as a flag. It
# resumes from its history, which lies by session outside of the workspace: a fork of the disk begins anew.
history=$HOME/.aider/$AUTOVIBE_SESSION.md
message=$HOME/.aider/message
mkdir -p "$HOME/.aider"
# Without a repository it makes one by itself, with a .gitignore and an author of its own choice.
git rev-parse --git-dir >/dev/null 2>&1 || git init -q || exit 1
git config user.name >/dev/null || git config --global user.name Aider
git config user.email >/dev/null || git config --global user.email aider@localhost
# Its caches lie in the workspace.
exclude=$(git rev-parse --git-path info/exclude)
mkdir -p "${exclude%/*}"
grep -qsxF '.aider*' "$exclude" || echo '.aider*' >>"$exclude"
if grep -qs '^#### ' "$history"; then
  printf '%s\n\nThe goal: %s' "$AUTOVIBE_CONTINUE" "$AUTOVIBE_PROMPT" >"$message"
  set -- --restore-chat-history "$@"
else
  printf '%s' "$AUTOVIBE_PROMPT" >"$message"
fi
exec aider --message-file "$message" --chat-history-file "$history" --input-history-file "$HOME/.aider/input" "$@" </dev/null
