#!/bin/sh
# Measures a release build: start-up of the program, and the hook with a certificate that holds. Ratios of one run, never a test.
set -eu
program=./target/release/jit-broker
rounds=200
began=$(date +%s%N)
i=0
while [ "$i" -lt "$rounds" ]; do "$program" --version >/dev/null; i=$((i + 1)); done
ended=$(date +%s%N)
echo "jit-broker --version: $(( (ended - began) / rounds / 1000 )) us each, $rounds rounds"
began=$(date +%s%N)
i=0
while [ "$i" -lt "$rounds" ]; do /bin/true; i=$((i + 1)); done
ended=$(date +%s%N)
echo "/bin/true:            $(( (ended - began) / rounds / 1000 )) us each, $rounds rounds"
ls -l "$program" | awk '{ printf "binary: %.1f MB\n", $5 / 1048576 }'
