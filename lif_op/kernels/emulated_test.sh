#!/bin/sh
# usage: emulated_test.sh X86_TESTS AARCH64_TESTS
#
# Runs the C++ tests of the kernels, built for two families of processors into the folders named, in
# QEMU: on processors this machine is not, each with the kernel targets it can run. One in
# $LIF_OP_TEST_EVERY of the cases of the slowest test is run, one in 5 unless told otherwise: all
# targets, widths and kinds of layers are among them, and the whole set is run on the machine itself
# by its own tests.
set -eu
export LIF_OP_TEST_EVERY="${LIF_OP_TEST_EVERY:-5}"
x86=$1
aarch64=$2

# Lines of: emulator and its options; the processor; what is special about it.
processors() {
  echo "$x86|qemu-x86_64 -cpu Nehalem|no AVX2"
  echo "$x86|qemu-x86_64 -cpu Haswell|AVX2"
  echo "$aarch64|qemu-aarch64 -L /usr/aarch64-linux-gnu -cpu cortex-a72|NEON"
  echo "$aarch64|qemu-aarch64 -L /usr/aarch64-linux-gnu -cpu max|NEON with dot products"
}

run() {
  folder=${1%%|*}
  rest=${1#*|}
  command=${rest%%|*}
  label="${command##* } (${rest#*|})"
  for test in "$folder"/*_test; do
    # What QEMU does not emulate of the processor, it says on every start.
    output=$($command "$test" 2>&1 | grep -v 'warning: TCG') || true
    case $output in
      *": all checks hold") echo "$label: $output" ;;
      *) printf '%s\n%s\n' "$label: $(basename "$test") failed" "$output" && exit 1 ;;
    esac
  done
}

if [ "${3:-}" = --one ]; then
  run "$4"
  exit
fi
processors | tr '\n' '\0' |
  xargs -0 -P "$(nproc)" -I {} sh "$0" "$x86" "$aarch64" --one {}
