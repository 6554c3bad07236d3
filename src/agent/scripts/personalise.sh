# Gives the guest its own identity, once; sets the clock each time. Args: host name, machine id (32 hex), seconds since 1970.
name=$1 id=$2 now=$3
mkdir -p "$state" "$root/etc"
if [ -z "$root" ]; then
  drift=$((now - $(date +%s)))
  if [ "$drift" -gt 2 ] || [ "$drift" -lt -2 ]; then date -u -s "@$now" >/dev/null || exit 1; fi
fi
[ "$(cat "$state/identity" 2>/dev/null)" = "$id" ] && exit 0
# The disk is a clone of another Machine's: forget its launches and its token. workspace.git stays, it is the base of diffs.
rm -rf "$state"/launch.* "$state/launched" "$state/exit" "$state/agent.env" "$state/runner.key" "$state/agent.log" "$state/source.bundle" "$state/verify.log"
printf '%s\n' "$name" >"$root/etc/hostname"
[ -n "$root" ] || hostname "$name" || true
printf '%s\n' "$id" >"$root/etc/machine-id"
if [ -f "$root/var/lib/dbus/machine-id" ] && [ ! -L "$root/var/lib/dbus/machine-id" ]; then
  printf '%s\n' "$id" >"$root/var/lib/dbus/machine-id"
fi
if [ -e "$root/etc/ssh/sshd_config" ]; then
  rm -f "$root"/etc/ssh/ssh_host_*
  if [ -z "$root" ] && command -v ssh-keygen >/dev/null; then ssh-keygen -A >/dev/null || exit 1; fi
fi
[ -n "$root" ] || printf '%s%s' "$id" "$now" >/dev/urandom
printf '%s\n' "$id" >"$state/identity.tmp"
mv "$state/identity.tmp" "$state/identity"
sync
