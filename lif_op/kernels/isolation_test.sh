#!/bin/sh
# usage: isolation_test.sh NM OBJECT...
#
# Checks that what is compiled for an instruction set stays apart: its object files may export their
# own kernels and nothing else. A weak symbol in one of them (an inline function or a template of a
# header) could replace the copy all other code uses, and end in an illegal instruction on a CPU
# without that instruction set.
set -eu
nm=$1
shift
checked=0
for object in "$@"; do
  case ${object##*/} in *neon* | *avx* | *amx*) ;; *) continue ;; esac
  checked=$((checked + 1))
  # Defined global symbols (nm prints weak ones as V, W or u) that are none of our kernels.
  leaks=$("$nm" -C --defined-only --extern-only "$object" |
    awk '$2 !~ /^[TDRB]$/ || $3 !~ /^lif_op::(neon|neondot|avx2|avx512vnni|avx512vbmi|amx)::/')
  if [ -n "$leaks" ]; then
    echo "$object exports more than its kernels:"
    echo "$leaks"
    exit 1
  fi
done
[ "$checked" -gt 0 ] || { echo "no object file of an instruction set among: $*"; exit 1; }
echo "isolation_test: $checked object files export nothing but kernels"
