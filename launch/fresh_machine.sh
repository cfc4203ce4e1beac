#!/usr/bin/env bash
# Tries a command of this checkout on a bare Debian, made by debootstrap.
#
#   bash launch/fresh_machine.sh SUITE DIRECTORY [COMMAND...]
#
# SUITE is a Debian release: bookworm (12, Python 3.11) or trixie (13, Python
# 3.13). DIRECTORY is made (about 400 MB) with python3, python3-venv and git
# only, without a compiler; one that is there is used again. COMMAND runs in a
# copy of the last commit there (default: bash launch/quickstart.sh). Needs
# root, debootstrap and a network. Pip's settings (PIP_*) are passed on, and the
# file of PIP_CERT is copied.
set -euo pipefail

if [ $# -lt 2 ] || [ "$1" = "--help" ]; then
  sed -n '2,12s/^# \{0,1\}//p' "$0"
  [ "${1:-}" = "--help" ] && exit 0
  exit 2
fi
suite=$1 root=$2
shift 2
[ $# -gt 0 ] || set -- bash launch/quickstart.sh
for program in debootstrap chroot git; do
  if ! command -v "$program" >/dev/null; then
    echo "$program is missing; on Debian type: apt-get install $program" >&2
    exit 2
  fi
done
if [ "$(id -u)" != 0 ]; then
  echo "debootstrap and chroot need root; type: sudo bash $0 $suite $root" >&2
  exit 2
fi

if [ ! -e "$root/.complete" ]; then
  debootstrap --variant=minbase \
    --include=python3,python3-venv,git,ca-certificates "$suite" "$root"
  touch "$root/.complete"
fi
if [ -x "$root/usr/bin/gcc" ] || [ -x "$root/usr/bin/cc" ]; then
  echo "$root has a compiler, which a bare machine has not" >&2
  exit 2
fi
cp /etc/resolv.conf /etc/hosts "$root/etc/"
if [ -n "${PIP_CERT:-}" ]; then
  install -D "$PIP_CERT" "$root$PIP_CERT"
fi
mkdir -p "$root/rlaif_jax"
git -C "$(dirname "$0")/.." archive HEAD | tar -x -C "$root/rlaif_jax"

settings=()
while IFS= read -r setting; do
  settings+=("$setting")
done < <(env | grep -E '^(PIP_(CERT|INDEX_URL|DEFAULT_TIMEOUT)|https?_proxy)=')
mount --bind /proc "$root/proc"
trap 'umount "$root/proc"' EXIT
chroot "$root" env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin \
  LANG=C.UTF-8 "${settings[@]}" \
  bash -c 'python3 --version && cd /rlaif_jax && exec "$@"' bash "$@"
