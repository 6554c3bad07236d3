# Prints `SHA256 PATH` of each directory that is there, over the names of all that is in it and the contents of its files. Args: longest
# time for each in seconds, directories. One that takes longer is left out.
limit=$1
shift
for dir in "$@"; do
  [ -d "$root$dir" ] || continue
  sum=$(
    cd "$root$dir" && timeout -s KILL "$limit" sh -c \
      '{ find . ! -type d; find . -type f -exec sha256sum {} +; } 2>/dev/null | LC_ALL=C sort | sha256sum'
  ) || continue
  printf '%s %s\n' "${sum%% *}" "$dir"
done
exit 0
