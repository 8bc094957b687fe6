#!/usr/bin/env bash
# Run pytest with the given arguments as the user nobody, who has no home, may write nowhere but in a temporary folder
# and makes files that nobody else reads, in the locale C, the time zone furthest east, and the background.
# Needs root. Nothing outside is changed: folders that are closed to other users are opened in a mount namespace alone.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${ELSEWHERE_SCRATCH:-}" ]; then
  ELSEWHERE_SCRATCH="$(mktemp -d)"
  export ELSEWHERE_SCRATCH
  trap 'rm -rf --one-file-system "$ELSEWHERE_SCRATCH"' EXIT
  unshare --mount --propagation private bash "tests/elsewhere.sh" "$@"
  exit
fi

data="$(realpath "${TENSLORADIST_DATA:-../shared}")"
packages="$(.venv/bin/python -c 'import pathlib, torch; print(pathlib.Path(torch.__file__).parents[1])')"
needed=("$(.venv/bin/python -c 'import sys; print(sys.base_prefix)')" "$packages" "$PWD" "$data")

# The topmost folder above a path that other users may not enter; nothing where they may.
closed_above() {
  local folder
  for folder in $(realpath "$1" | awk -F/ '{ path = ""; for (i = 2; i <= NF; i++) { path = path "/" $i; print path } }'); do
    [ "$(($(stat -c 0%a "$folder") & 1))" = 1 ] || { echo "$folder"; return; }
  done
}

closed=()
for index in "${!needed[@]}"; do
  closed[index]="$(closed_above "${needed[index]}")"
  mkdir -p "$ELSEWHERE_SCRATCH/held/$index"
  mount --bind "${needed[index]}" "$ELSEWHERE_SCRATCH/held/$index"
done
for folder in $(printf '%s\n' "${closed[@]}" | sort -u); do
  mount -t tmpfs -o mode=755 none "$folder"
done
for index in "${!needed[@]}"; do
  if [ -n "${closed[index]}" ]; then
    mkdir -p "${needed[index]}"
    mount --bind "$ELSEWHERE_SCRATCH/held/$index" "${needed[index]}"
  fi
done
cd "$PWD"

chmod 755 "$ELSEWHERE_SCRATCH"
mkdir -m 700 "$ELSEWHERE_SCRATCH/tmp"
chown nobody "$ELSEWHERE_SCRATCH/tmp"
umask 077
trap '' INT HUP QUIT  # as in the background, and under nohup
exec setpriv --reuid nobody --regid nogroup --clear-groups --inh-caps=-all --no-new-privs \
  env -i PATH="$PATH" HOME=/nonexistent USER=nobody LANG=C LC_ALL=C TZ=Pacific/Kiritimati \
  TMPDIR="$ELSEWHERE_SCRATCH/tmp" TENSLORADIST_DATA="$data" OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=1 \
  .venv/bin/python -m pytest -p no:cacheprovider "$@"
