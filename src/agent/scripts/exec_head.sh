# Where the streams of command `$1` are: in memory where that can be, so that it works on a full disk and is in no checkpoint.
dir=$root/run/autovibe/exec.$1
[ -d "$dir" ] || [ ! -d "$state/exec.$1" ] || dir=$state/exec.$1
