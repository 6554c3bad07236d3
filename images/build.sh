#!/bin/sh
# Builds a self-booting raw disk: an MBR, a FAT partition (syslinux, kernel, initramfs), an ext4 root. Nothing is mounted.
# Usage: build.sh micro|debian OUTPUT WORK. Packages come through this machine's own apt, npm and pip configuration. AUTOVIBE_AGENTS
# names the agents of the Debian image: `claude-code=VERSION aider=VERSION`; agents.txt beside this says where they come from. With
# AUTOVIBE_LEAVE_OUT those that do not run there are left out, which is said.
# AUTOVIBE_RUNNER is the executable of autovibe that goes with Claude Code.
# WORK keeps what was downloaded between builds. Needs root, as the files inside belong to root.
set -eu

kind=$1 output=$2 work=$3
here=$(cd "$(dirname "$0")" && pwd)
agents=${AUTOVIBE_AGENTS-}
left_out=
PATH=$PATH:/usr/sbin:/sbin

say() { printf 'image %s: %s\n' "$kind" "$*" >&2; }
die() { say "$*"; exit 1; }

[ "$(id -u)" = 0 ] || die "must be built as root: the files of the disk belong to root. Run it with sudo."
missing=
for tool in apt-get dpkg-deb busybox mkfs.ext4 mkfs.fat mcopy syslinux sfdisk; do
  command -v $tool >/dev/null || missing="$missing $tool"
done
[ "$kind" = micro ] || for tool in mmdebstrap npm; do command -v $tool >/dev/null || missing="$missing $tool"; done
[ -z "$missing" ] || die "missing on this machine:$missing. \`make deps\` installs them."
mbr=
for candidate in /usr/lib/syslinux/mbr/mbr.bin /usr/lib/SYSLINUX/mbr.bin; do [ -f $candidate ] && mbr=$candidate; done
[ -n "$mbr" ] || die "syslinux' mbr.bin is missing: install syslinux-common"

mkdir -p "$work/debs"
build=$(mktemp -d "$work/$kind.XXXXXX")
trap 'rm -rf "$build"' EXIT
trap 'exit 1' INT TERM
root=$build/root
mkdir "$root"

# Names of the packages that PACKAGE needs, itself among them.
closure() {
  apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances "$1" | grep -E '^[a-z0-9]'
}

# Unpacks packages into DIR; downloads those that apt would now install, once.
unpack() {
  into=$1; shift
  mkdir -p "$into"
  (cd "$work/debs" && apt-get -q -o APT::Sandbox::User=root download "$@" >"$build/apt.log" 2>&1) || { cat "$build/apt.log" >&2; die "apt could not download: $*. Try \`apt-get update\`."; }
  for package in "$@"; do
    # The newest file of that name is the one that apt now means.
    deb=$(ls -t "$work/debs/$package"_*.deb | head -n 1)
    dpkg-deb -x "$deb" "$into"
  done
}

# Kernel and initramfs: only the modules that find the root disk, the guest agent's port and the network.
kernel() {
  meta=
  for candidate in linux-image-cloud-amd64 linux-image-virtual; do
    apt-cache show $candidate >/dev/null 2>&1 && { meta=$candidate; break; }
  done
  [ -n "$meta" ] || die "apt knows no cloud kernel (linux-image-cloud-amd64, linux-image-virtual)"
  packages=$(closure $meta | grep -E '^linux-(image|modules)-[0-9]')
  say "kernel: $(echo $packages)"
  # shellcheck disable=SC2086 # a list of names
  unpack "$build/kernel" $packages
  # Where /lib is /usr/lib, the package says so.
  [ -d "$build/kernel/lib/modules" ] || { mkdir -p "$build/kernel/lib" && mv "$build/kernel/usr/lib/modules" "$build/kernel/lib/modules"; }
  version=$(ls "$build/kernel/lib/modules" | head -n 1)
  busybox depmod -b "$build/kernel" "$version"
  initramfs=$build/initramfs
  mkdir -p "$initramfs/bin" "$initramfs/modules" "$initramfs/proc" "$initramfs/sys" "$initramfs/dev" "$initramfs/root"
  cp "$build/busybox" "$initramfs/bin/busybox"
  cp "$here/guest/initramfs-init" "$initramfs/init"
  chmod 755 "$initramfs/init"
  : >"$initramfs/modules/order"
  for module in virtio_pci virtio_scsi sd_mod virtio_blk virtio_console virtio_net crc32c_intel ext4 button evdev; do
    with_dependencies $module
  done
  (cd "$initramfs" && find . | busybox cpio -o -H newc 2>/dev/null) >"$build/initrd"
  gzip -n -1 "$build/initrd"
}

# Copies a module after those it needs, and writes them down in that order. One that is built in has no file.
with_dependencies() {
  line=$(grep -E "/$1\.ko[^:]*:" "$build/kernel/lib/modules/$version/modules.dep" || true)
  [ -n "$line" ] || return 0
  # modules.dep names the needed ones with the deepest last.
  for file in $(printf '%s\n' "$line" | tr -d ':' | awk '{ for (i = NF; i > 0; i--) print $i }'); do
    name=$(basename "$file")
    grep -qxF "$name" "$initramfs/modules/order" && continue
    cp "$build/kernel/lib/modules/$version/$file" "$initramfs/modules/"
    echo "$name" >>"$initramfs/modules/order"
  done
}

# What every guest of ours has: busybox' init as process 1, its scripts, the user `agent`.
contract() {
  mkdir -p "$root/bin" "$root/sbin" "$root/usr/lib/autovibe" "$root/etc/acpi/PWRF" "$root/proc" "$root/sys" "$root/dev" "$root/run" "$root/tmp" \
    "$root/var/lib/autovibe" "$root/root"
  chmod 1777 "$root/tmp"
  chmod 700 "$root/root"
  [ -e "$root/bin/busybox" ] || cp "$build/busybox" "$root/bin/busybox"
  for script in rc stop agent dhcp; do
    install -m 755 "$here/guest/$script" "$root/usr/lib/autovibe/$script"
  done
  install -m 644 "$here/guest/inittab" "$root/etc/inittab"
  for name in shutdown poweroff reboot halt; do
    rm -f "$root/sbin/$name"
    install -m 755 "$here/guest/shutdown" "$root/sbin/$name"
  done
  ln -sf /sbin/poweroff "$root/etc/acpi/PWRF/00000080"
  rm -f "$root/sbin/init"
  ln -s /bin/busybox "$root/sbin/init"
  echo guest >"$root/etc/hostname"
  printf '127.0.0.1 localhost\n' >"$root/etc/hosts"
  : >"$root/etc/machine-id"
  rm -f "$root/etc/resolv.conf"
  : >"$root/etc/resolv.conf"
}

micro() {
  # shellcheck disable=SC2046 # a list of names
  unpack "$build/tree" qemu-guest-agent $(closure qemu-guest-agent | grep -E '^lib' | grep -vE 'perl|gdbm|libdb')
  mkdir -p "$root/bin" "$root/usr/sbin" "$root/lib64" "$root/etc" "$root/home/agent" "$root/var/log" "$root/var/run"
  cp "$build/busybox" "$root/bin/busybox"
  for applet in $("$build/busybox" --list); do
    [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
  done
  cp "$build/tree/usr/sbin/qemu-ga" "$root/usr/sbin/qemu-ga"
  tree=$build/tree
  loader=$(find "$tree/lib64" "$tree/usr/lib64" "$tree/lib" -name 'ld-linux-x86-64.so.2' 2>/dev/null | head -n 1)
  cp -L "$loader" "$root/lib64/ld-linux-x86-64.so.2"
  mkdir -p "$root/usr/lib/x86_64-linux-gnu"
  "$loader" --library-path "$tree/lib/x86_64-linux-gnu:$tree/usr/lib/x86_64-linux-gnu" --list "$tree/usr/sbin/qemu-ga" |
    awk '$2 == "=>" { print $3 }' | while read -r library; do
      case $library in "$tree"/*) cp -L "$library" "$root/usr/lib/x86_64-linux-gnu/" ;; *) die "qemu-ga needs $library, which no package gave" ;; esac
    done
  printf 'root:x:0:0:root:/root:/bin/sh\nagent:x:1000:1000:agent:/home/agent:/bin/sh\n' >"$root/etc/passwd"
  printf 'root:x:0:\nagent:x:1000:\n' >"$root/etc/group"
  printf 'root:*:19000::::::\nagent:*:19000::::::\n' >"$root/etc/shadow"
  chmod 600 "$root/etc/shadow"
  printf 'ID=autovibe-micro\nNAME="autovibe micro"\nPRETTY_NAME="autovibe micro guest"\nVERSION_ID=1\n' >"$root/etc/os-release"
  chown 1000:1000 "$root/home/agent"
  root_mib=64
}

# Field N of what agents.txt says of NAME.
listed() { awk -v name="$1" -v n="$2" '$1 == name { print $n }' "$here/agents.txt"; }

# Unpacks the npm package that agents.txt lists as NAME, in VERSION, into DIR; downloads it once.
unpack_npm() {
  package=$(listed "$1" 3)@$2
  tarball=$work/$1-$2.tgz
  if [ ! -s "$tarball" ]; then
    mkdir "$build/pack"
    (cd "$build/pack" && npm pack --silent "$package" >/dev/null) || die "npm could not fetch $package"
    mv "$build"/pack/*.tgz "$tarball"
    rmdir "$build/pack"
  fi
  mkdir -p "$3"
  tar -xzf "$tarball" -C "$3" --no-same-owner
}

# Aider beside the guest's Python, so that the projects it works on do not see its packages. They are made here, for that Python.
aider() {
  python=$(basename "$(ls "$root"/usr/bin/python3.[0-9]* | head -n 1)")
  case $python in
    python3.10 | python3.11 | python3.12) ;;
    *)
      why="needs Python 3.10 to 3.12 and $suite has $python"
      [ -n "${AUTOVIBE_LEAVE_OUT-}" ] || die "Aider $why: leave it out with --agents"
      left_out="Aider was left out: it $why. For an image with it, run \`autovibe image build debian\` on Debian 12 or Ubuntu 24.04 and copy the file here."
      return
      ;;
  esac
  package=$(listed aider 3)
  done=$work/aider-$1-$python
  if [ ! -e "$done/bin/aider" ]; then
    [ -x "$work/pip/bin/pip" ] || python3 -m venv "$work/pip" || die "python3 has no venv: install python3-venv"
    rm -rf "$done" "$done.part"
    "$work/pip/bin/pip" install --quiet --disable-pip-version-check --no-compile --target "$done.part" --only-binary=:all: \
      --implementation cp --python-version "${python#python}" \
      --platform manylinux2014_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux_2_28_x86_64 "$package==$1" >&2 ||
      die "pip could not fetch $package $1"
    mv "$done.part" "$done"
  fi
  mkdir -p "$root/opt"
  cp -a "$done" "$root/opt/aider"
  # Compiled here: the agent could not write it down, and would compile at every start.
  chroot "$root" "$python" -m compileall -q /opt/aider >&2 || true
  cat >"$root/usr/local/bin/aider" <<'AIDER'
#!/usr/bin/python3
import sys

sys.path.insert(0, "/opt/aider")
from aider.main import main

sys.exit(main())
AIDER
  chmod 755 "$root/usr/local/bin/aider"
}

# The executable that runs Claude Code for its hub, as root; without it the agent runs all the same.
runner() {
  say "the runner"
  install -m 755 "$AUTOVIBE_RUNNER" "$root/usr/local/bin/autovibe"
  strip "$root/usr/local/bin/autovibe" 2>/dev/null || true
  # Built for a newer system, it would keep the agent from starting.
  chroot "$root" /usr/local/bin/autovibe version >/dev/null 2>&1 || {
    say "this autovibe does not run in $suite: the image has no runner"
    rm -f "$root/usr/local/bin/autovibe"
  }
}

debian() {
  . /etc/os-release
  # The machine's own sources, as far as they are its distribution's: a third party's are none of the guest's business.
  case ${ID:-debian} in ubuntu) origin=Ubuntu ;; *) origin=Debian ;; esac
  apt-get indextargets --format "\$(REPO_URI)|\$(RELEASE)|\$(COMPONENT)|\$(ORIGIN)" 'Created-By: Packages' |
    awk -F'|' -v origin=$origin '$4 == origin { print "deb " $1 " " $2 " " $3 }' | sort -u >"$build/sources"
  [ -s "$build/sources" ] || die "apt on this machine has no source of $origin: run \`apt-get update\`"
  suite=${VERSION_CODENAME:-bookworm}
  say "mmdebstrap $suite"
  rmdir "$root"
  # shellcheck disable=SC2016
  mmdebstrap --quiet --mode=root --variant=minbase \
    --include=busybox-static,qemu-guest-agent,git,curl,ca-certificates,python3,procps,util-linux \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    "$suite" "$root" "$build/sources" >&2
  # The sources of the machine that built it may mean nothing where the guest runs.
  rm -f "$root"/etc/apt/sources.list.d/* "$root"/var/cache/apt/*.bin
  chroot "$root" useradd --create-home --uid 1000 --shell /bin/bash agent
  for agent in $agents; do
    say "$agent"
    case $agent in
      claude-code=*)
        unpack_npm claude-code "${agent#*=}" "$build/claude-code"
        install -m 755 "$build/claude-code/package/claude" "$root/usr/local/bin/claude"
        ;;
      qwen-code=*)
        unpack_npm node "$(listed node 4)" "$build/node"
        install -m 755 "$build/node/package/bin/node" "$root/usr/local/bin/node"
        unpack_npm qwen-code "${agent#*=}" "$root/opt/qwen-code"
        printf '#!/bin/sh\nexec /usr/local/bin/node /opt/qwen-code/package/cli.js "$@"\n' >"$root/usr/local/bin/qwen"
        chmod 755 "$root/usr/local/bin/qwen"
        ;;
      aider=*) aider "${agent#*=}" ;;
      *) die "there is no agent $agent" ;;
    esac
  done
  case " $agents" in *" claude-code="*) [ -z "${AUTOVIBE_RUNNER:-}" ] || runner ;; esac
  root_mib=4072
}

say "work in $build"
unpack "$build/busybox-deb" busybox-static
cp "$build/busybox-deb/bin/busybox" "$build/busybox" 2>/dev/null || cp "$build/busybox-deb/usr/bin/busybox" "$build/busybox"
kernel
case $kind in
  micro) micro ;;
  debian) debian ;;
  *) die "there are the images micro and debian" ;;
esac
contract

boot_mib=23
disk=$build/disk.raw
truncate -s $((1 + boot_mib + root_mib))M "$disk"
printf 'label: dos\nstart=2048, size=%d, type=6, bootable\nstart=%d, size=%d, type=83\n' $((boot_mib * 2048)) $(((1 + boot_mib) * 2048)) $((root_mib * 2048)) |
  sfdisk --quiet "$disk"
dd if=$mbr of="$disk" bs=440 count=1 conv=notrunc status=none

truncate -s ${boot_mib}M "$build/boot"
mkfs.fat -F 16 -h 2048 -n BOOT "$build/boot" >/dev/null
syslinux --install "$build/boot"
mcopy -i "$build/boot" "$build/kernel/boot/vmlinuz-$version" ::vmlinuz
mcopy -i "$build/boot" "$build/initrd.gz" ::initrd.gz
mcopy -i "$build/boot" "$here/guest/syslinux.cfg" ::syslinux.cfg
dd if="$build/boot" of="$disk" bs=1M seek=1 conv=notrunc status=none

# Nothing is left for the guest's kernel to initialise: each block it writes is one that its clones no longer share.
mkfs.ext4 -q -F -L autovibe -m 0 -E "offset=$(((1 + boot_mib) * 1048576)),lazy_itable_init=0,lazy_journal_init=0,nodiscard" -d "$root" "$disk" ${root_mib}M
# Zeros that were written are no part of the image.
fallocate --dig-holes "$disk" 2>/dev/null || true

mkdir -p "$(dirname "$output")"
mv "$disk" "$output.part"
mv "$output.part" "$output"
say "$output: $(du -h "$output" | cut -f1) of $((1 + boot_mib + root_mib)) MiB"
[ -z "$left_out" ] || say "$left_out"
