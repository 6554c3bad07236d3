# Commits the work tree, in a repository of our own beside it, as refs/autovibe/NAME, and prints a base64 git bundle of it
# since refs/autovibe/BASE, or `none`. Args: workspace, name, base (may be empty), message.
workspace=$1 name=$2 base=$3 message=$4
source=$(cat "$state/source.commit" 2>/dev/null)
if ! command -v git >/dev/null || [ ! -d "$workspace" ]; then echo none; exit 0; fi
# What is installed, a line each. Nothing is run for it that takes long in an emulated guest.
installed() {
  command -v dpkg-query >/dev/null && dpkg-query -W -f '${db:Status-Abbrev} ${Package} ${Version}\n' 2>/dev/null | sed -n 's/^ii */deb /p'
  command -v rpm >/dev/null && rpm -qa --qf 'rpm %{NAME} %{VERSION}-%{RELEASE}\n' 2>/dev/null
  [ -e "$root/lib/apk/db/installed" ] && awk -F: '/^P:/ { name = $2 } /^V:/ { print "apk", name, $2 }' "$root/lib/apk/db/installed"
  for info in "$root"/usr/lib/python3*/*-packages/*.dist-info "$root"/usr/local/lib/python3*/*-packages/*.dist-info \
    "$root/home/$user"/.local/lib/python3*/site-packages/*.dist-info "$workspace"/.venv/lib/python3*/site-packages/*.dist-info; do
    name=${info##*/} && name=${name%.dist-info}
    [ -d "$info" ] && echo "pip ${name%-*} ${name##*-}"
  done
  for file in "$root"/usr/lib/node_modules/*/package.json "$root"/usr/lib/node_modules/@*/*/package.json \
    "$root"/usr/local/lib/node_modules/*/package.json "$root"/usr/local/lib/node_modules/@*/*/package.json; do
    name=${file#*/node_modules/} && name=${name%/package.json}
    [ -f "$file" ] && echo "npm $name $(sed -n 's/^ *"version": *"\([^"]*\)".*/\1/p' "$file" | head -n 1)"
  done
  true
}
mkdir -p "$state/workspace.git" && own "$state/workspace.git" || exit 1
# shellcheck disable=SC2016
installed | sort -u | (as_agent sh -c '
  export GIT_DIR=$1 GIT_WORK_TREE=$2 GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null HOME=/nonexistent
  export GIT_AUTHOR_NAME=autovibe GIT_AUTHOR_EMAIL=autovibe@localhost GIT_COMMITTER_NAME=autovibe GIT_COMMITTER_EMAIL=autovibe@localhost
  name=$3 base=$4 message=$5 source=$6
  cd "$2" || exit 1
  [ -e "$GIT_DIR/HEAD" ] || git init -q || exit 1
  rm -f "$GIT_DIR/index.lock"
  # What its own repository leaves out on this machine alone, such as the caches of an agent, is no part of the work.
  if [ -f .git/info/exclude ]; then mkdir -p "$GIT_DIR/info" && cp .git/info/exclude "$GIT_DIR/info/exclude"; fi
  git -c core.fsmonitor=false -c advice.addEmbeddedRepo=false add -A . 2>/dev/null
  tree=$(git write-tree) || exit 1
  parent=
  if [ -n "$base" ] && git rev-parse -q --verify "refs/autovibe/$base^{commit}" >/dev/null; then parent=refs/autovibe/$base; fi
  commit=$(git commit-tree "$tree" ${parent:+-p "$parent"} -m "$message" ${source:+-m "Source: $source"}) || exit 1
  git update-ref "refs/autovibe/$name" "$commit" || exit 1
  # Beside it, not in it: they are no part of the work.
  packages=$(git hash-object -w --stdin) && tree=$(printf "100644 blob %s\tpackages\n" "$packages" | git mktree) || exit 1
  git update-ref "refs/autovibe-packages/$name" "$(git commit-tree "$tree" -m "$name")" || exit 1
  git bundle create -q "$GIT_DIR/out.bundle" "refs/autovibe/$name" "refs/autovibe-packages/$name" ${parent:+"^$parent"} || exit 1
' sh "$state/workspace.git" "$workspace" "$name" "$base" "$message" "$source") >&2 || exit 1
out=$state/workspace.git/out.bundle
# The guest agent hands out at most 16 MiB of output.
if [ "$(wc -c <"$out")" -gt 11000000 ]; then echo "the workspace is too large for a bundle" >&2; echo none; else base64 "$out"; fi
rm -f "$out"
