# Puts the bundle that was written beside it into the workspace, once. Args: workspace, ref (may be empty), what it is a bundle of.
# Exits with 65 where the workspace has another source, and says which.
workspace=$1 ref=$2 origin=$3
bundle=$state/source.bundle
if [ -e "$state/source.done" ]; then
  # An empty one is of an older hub, which wrote down no origin.
  had=$(cat "$state/source.done")
  if [ -z "$had" ] || [ "$had" = "$origin" ]; then
    rm -f "$bundle" "$bundle".[0-9]*
    exit 0
  fi
  if [ -n "$(ls -A "$workspace" 2>/dev/null)" ]; then
    rm -f "$bundle" "$bundle".[0-9]*
    echo "$had" >&2
    exit 65
  fi
  # What is cut short from here on is begun anew.
  rm -f "$state/source.done"
fi
command -v git >/dev/null || { echo "there is no git in the guest" >&2; exit 69; }
# A large bundle comes in numbered pieces.
if [ -e "$bundle.00000" ]; then cat "$bundle".[0-9]* >"$bundle"; rm -f "$bundle".[0-9]*; fi
mkdir -p "$workspace" && own "$workspace" && own "$bundle" || exit 1
(
  cd "$workspace" || exit 1
  export HOME="$root/home/$user"
  # shellcheck disable=SC2016
  as_agent sh -c '
    bundle=$1 ref=$2
    git init -q . || exit 1
    git fetch -q --tags "$bundle" "+refs/heads/*:refs/remotes/origin/*" 2>/dev/null
    commit=
    for name in ${ref:+"$ref" "refs/heads/$ref" "refs/tags/$ref"} HEAD; do
      if git fetch -q "$bundle" "$name" 2>/dev/null; then commit=$(git rev-parse FETCH_HEAD); break; fi
    done
    if [ -z "$commit" ]; then
      name=$(git bundle list-heads "$bundle" | head -n 1 | cut -d" " -f2)
      git fetch -q "$bundle" "$name" && commit=$(git rev-parse FETCH_HEAD) || exit 1
    fi
    branch=main
    if [ -n "$ref" ] && git check-ref-format --branch "$ref" >/dev/null 2>&1; then branch=$ref; fi
    git checkout -q -f -B "$branch" "$commit"
  ' sh "$bundle" "$ref"
) || exit 1
# What the files began as, for whoever takes the work back there.
(cd "$workspace" && as_agent git rev-parse HEAD) >"$state/source.commit"
printf '%s\n' "$origin" >"$state/source.done"
rm -f "$bundle"
sync
