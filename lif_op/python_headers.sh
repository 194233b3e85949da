#!/bin/sh
# Finds the C headers of a Python, or fetches them: Debian's python3 comes without.
#
# usage: python_headers.sh PYTHON DEST
#
# Makes DEST a folder that holds Python.h: a link to where PYTHON has it, or a copy from Debian's
# package libpython3.X-dev, downloaded through the machine's own apt and only unpacked. Root is not
# needed, and nothing of the machine's set-up is changed.
set -eu

fail() {
  echo "error: $*" >&2
  exit 1
}

[ $# -eq 2 ] || fail "usage: python_headers.sh PYTHON DEST"
installed=$("$1" -c 'import sysconfig; print(sysconfig.get_path("include"))')
rm -rf "$2"
mkdir -p "$(dirname "$2")"
if [ -f "$installed/Python.h" ]; then
  ln -s "$installed" "$2"
  exit 0
fi

advice="the C headers of $1 are missing (no $installed/Python.h); on Debian: apt install python3-dev"
case $installed in /usr/include/python3.*) ;; *) fail "$advice" ;; esac
name=$(basename "$installed")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
(cd "$work" && apt-get download "lib$name-dev" && dpkg-deb -x "lib$name-dev"*.deb .) \
  > "$work/log" 2>&1 || fail "$advice"
cp -r "$work/usr/include/$name" "$work/headers"
# The one there only refers to that of the machine's architecture.
cp "$work"/usr/include/*/"$name"/pyconfig.h "$work/headers/pyconfig.h"
mv "$work/headers" "$2"
echo "$1 comes without C headers; took them from Debian's lib$name-dev"
