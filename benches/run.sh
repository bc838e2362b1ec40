#!/bin/sh
# Measures a release build and writes benches/RESULTS.md: figures beside their aims, never a test. Half an hour on two cores, after the build.
# JIT_KILL_ROUNDS (100), JIT_ABORTS (1000), JIT_ENDINGS (2000), JIT_EVENTS (1000000), JIT_LIVE (100000) make it shorter or longer.
set -eu
cargo=${CARGO:-cargo}
program=./target/release/jit-broker
rows=$(mktemp)
trap 'rm -f "$rows"' EXIT
export JIT_BENCH_ROWS="$rows"
began=$(date +%s)

step() { echo "bench: $* [$(( $(date +%s) - began )) s so far, load $(cut -d' ' -f1 /proc/loadavg)]"; }
row() { echo "$1: $2 (aim $3: $4)"; echo "| $1 | $2 | $3 | $4 |" >>"$rows"; }
step '1 of 7: building (thin LTO: minutes)'
"$cargo" build --release --locked
"$cargo" bench --no-run --locked --bench accounts --bench certificates --bench long_ledger --bench policy --bench program --bench ssh_relay \
  --bench verify
"$cargo" test --no-run --locked --test it
began=$(date +%s)
load_before=$(cut -d' ' -f1-3 /proc/loadavg)

step '2 of 7: the program'
small=$(mktemp)
strip -o "$small" "$program"
bytes=$(wc -c <"$small")
rm -f "$small"
met=no; [ "$bytes" -le 31457280 ] && met=yes
row 'binary, stripped' "$((bytes / 1048576)) MB ($(( $(wc -c <"$program") / 1048576 )) MB with the lines for back traces)" '≤ 30 MB' "$met"

"$cargo" bench --locked --bench program || row 'the program' 'the bench failed' – no
"$cargo" bench --locked --bench policy || row 'policy' 'the bench failed' – no

step '3 of 7: certificates over HTTPS (about a minute)'
"$cargo" bench --locked --bench certificates || row 'certificates' 'the bench failed' – no

step '4 of 7: accounts on PostgreSQL, and their ends (about 5 minutes)'
"$cargo" bench --locked --bench accounts -- 3 || row 'accounts and their ends' 'the bench failed' – no

step '5 of 7: long ledgers, and audit verify (about 5 minutes)'
"$cargo" bench --locked --bench long_ledger || row 'long ledgers' 'the bench failed' – no
"$cargo" bench --locked --bench verify || row 'audit verify' 'the bench failed' – no

step '6 of 7: ssh through the gateway (about 12 minutes)'
for cipher in aes256-gcm@openssh.com chacha20-poly1305@openssh.com; do
  "$cargo" bench --locked --bench ssh_relay -- "${JIT_MIB:-512}" 3 "$cipher" || row "ssh with $cipher" 'the bench failed' – no
done

step '7 of 7: kill -9 and clients that hang up (about 4 minutes; debug build)'
said=$(mktemp)
# Runs one test; its line of figures is the row.
tried() {
  if "$cargo" test --locked --test it "$2" -- --nocapture >"$said" 2>&1; then met=yes; else met=no; fi
  row "$1" "$(sed -n "s/^.*\.\.\. \([0-9]* $3.*\)/\1/p; /^[0-9]* $3/p" "$said" | head -n 1)" "$4" "$met"
}
export JIT_KILL_ROUNDS="${JIT_KILL_ROUNDS:-100}" JIT_ABORTS="${JIT_ABORTS:-1000}"
tried 'accounts that nobody knows of, and holders shut out, after `kill -9` under load: none' kill::accounts 'kills: ' 'none in 100 rounds'
tried 'accounts that nobody knows of after requests that clients broke off: none' kill::aborted 'aborted (' 'none in 1,000'
rm -f "$said"

cpu=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)
memory=$(awk '/MemTotal/ { printf "%.0f GB", $2 / 1048576 }' /proc/meminfo)
postgres=$(ls /usr/lib/postgresql 2>/dev/null | sort -n | tail -n 1)
{
  echo '# Results'
  echo
  echo 'Written by `make bench`; what it measured last, in one run, beside the aims. Times of shared machines are noisy: compare ratios, and CPU.'
  echo
  echo "* Machine: $(nproc) cores (${cpu:-unknown}), $memory, $(uname -s) $(uname -r | cut -d- -f1), PostgreSQL ${postgres:-unknown} with fsync on; broker, ledger, signer,"
  echo '  PostgreSQL and the clients share it.'
  echo "* Build: release, thin LTO, $(rustc --version | cut -d' ' -f1-2)."
  echo "* $(date -u +%Y-%m-%d), $(( $(date +%s) - began )) s of measuring; load average before $load_before, after $(cut -d' ' -f1-3 /proc/loadavg)."
  echo
  echo '| what | seen | aim | met |'
  echo '|---|---|---|---|'
  cat "$rows"
  echo
  cat benches/notes.md
} >benches/RESULTS.md
step 'done: benches/RESULTS.md'
