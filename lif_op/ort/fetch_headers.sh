#!/bin/sh
# Fetches the official C API headers of ONNX Runtime, against which abi_check.cc proves api.h.
#
# usage: fetch_headers.sh DEST
#
# Puts onnxruntime_c_api.h and its companions into DEST and prints DEST. They come from Debian's
# package libonnxruntime-dev, through the mirror that this machine's apt is set up with, whatever
# form its sources are written in. Nothing of that set-up is changed: lists, cache and source of
# the download live in a temporary folder. Root is not needed.
set -eu

suite=trixie
package=libonnxruntime-dev
sha256=14f7d959d5deacbcf1504830d4189f91fc67382b399ed9ae9d3aa9c4050ced08  # 1.21.0+dfsg-1, amd64
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

fail() {
  echo "fetch_headers.sh: $*" >&2
  exit 1
}

[ $# -eq 1 ] || fail "usage: fetch_headers.sh DEST"
dest=$1
if [ -f "$dest/onnxruntime_c_api.h" ]; then
  echo "$dest"
  exit 0
fi
for tool in apt-get dpkg-deb sha256sum; do
  command -v "$tool" > /dev/null || fail "needs $tool, which this machine does not have"
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/parts" "$work/lists/partial" "$work/cache/archives/partial"

# apt itself tells which repositories it is set up with, in whatever form and lists or no lists.
repositories=$(apt-get update --print-uris |
  sed -n "s|^'\(.*\)/dists/[^']*/InRelease'.*|\1|p" | awk '!seen[$0]++')
[ -n "$repositories" ] || fail "apt has no package sources on this machine"

private_apt() {
  # A package that is only unpacked may be of another architecture than the machine.
  apt-get -qq \
    -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$work/parts" \
    -o Dir::State::lists="$work/lists" -o Dir::Cache="$work/cache" \
    -o APT::Architecture=amd64 -o APT::Architectures=amd64 -o APT::Sandbox::User=root \
    -o Acquire::Languages=none -o Acquire::http::Timeout=30 -o Acquire::Retries=1 "$@"
}

# Downloads the package into $work from a repository, if that one has it.
download_from() {
  rm -rf "$work/lists" && mkdir -p "$work/lists/partial"
  {
    printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: main\n' "$1" "$suite"
    printf 'Architectures: amd64\n'
    if [ -f "$keyring" ]; then printf 'Signed-By: %s\n' "$keyring"; fi
  } > "$work/parts/headers.sources"
  private_apt update && (cd "$work" && private_apt download "$package")
}

found=
for repository in $repositories; do
  if download_from "$repository" > "$work/log" 2>&1; then
    found=yes
    break
  fi
done
[ -n "$found" ] || fail "no package source of this machine has $package of Debian $suite:" \
  "$(tail -n 1 "$work/log")"

set -- "$work/$package"_*.deb
echo "$sha256  $1" | sha256sum --check --status ||
  fail "$(basename "$1") is not the package that was expected (sha256 differs)"
dpkg-deb -x "$1" "$work/unpacked"
mkdir -p "$dest"
# The file that marks DEST as complete comes last.
for header in "$work"/unpacked/usr/include/onnxruntime/*.h; do
  [ "$(basename "$header")" = onnxruntime_c_api.h ] || cp "$header" "$dest/"
done
cp "$work/unpacked/usr/include/onnxruntime/onnxruntime_c_api.h" "$dest/"
echo "$dest"
