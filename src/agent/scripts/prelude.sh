# Shared head of every script. AUTOVIBE_ROOT is empty in a guest; tests set it to a scratch directory.
set -u
export PATH="${PATH:-/bin}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
root=${AUTOVIBE_ROOT:-}
state=$root/var/lib/autovibe
user=${AUTOVIBE_USER:-agent}
# No process is started for it: in a software-emulated guest each takes several ms, and agents wait for some of the scripts.
{ read -r boot </proc/sys/kernel/random/boot_id; } 2>/dev/null || boot=unknown

# Whether there is an ordinary user for the agent that we can become.
has_user() { [ "$(id -u)" = 0 ] && id -u "$user" >/dev/null 2>&1; }

# Replaces this process by "$@" as the agent's user, or as ourselves where there is no such user.
as_agent() {
  has_user || exec "$@"
  if setpriv --help 2>&1 | grep -q -e --reuid; then
    exec setpriv --reuid="$user" --regid="$(id -g "$user")" --init-groups -- "$@"
  fi
  exec su -s /bin/sh -c 'exec "$@"' -- "$user" sh "$@"
}

# Gives files to the agent's user.
own() { if has_user; then chown -R "$user:$(id -g "$user")" "$@"; fi; }

nap() { sleep 0.05 2>/dev/null || sleep 1; }

# Sets `wrapper` and `child` to the processes of launch $1; fails when they are not of this boot or gone.
find_launch() {
  wrapper= child=
  read -r at wrapper child 2>/dev/null <"$state/launch.$1/pid" || return 1
  [ "$at" = "$boot" ] && grep -q agent.sh "/proc/$wrapper/cmdline" 2>/dev/null
}

# Sets `code` to the exit code of launch $1; fails when it has none.
find_exit() {
  code=
  read -r ended code 2>/dev/null <"$state/exit" || return 1
  [ "$ended" = "$1" ]
}
