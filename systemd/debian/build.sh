#!/bin/sh
# Makes a Debian package from a built binary: build.sh BINARY OUT_DIR; prints the path of the package. DEBFULLNAME and DEBEMAIL say whose.
# The layout is Debian's: /usr/bin, units below /usr/lib, state below /var/lib. Nothing is written below /etc: `jit-broker init` does that.
set -eu

binary=$1
out=$2
here=$(cd "$(dirname -- "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
version=$("$binary" --version | cut -d' ' -f2)
arch=$(dpkg --print-architecture)
# Whoever makes a package is who is asked about it (debchange(1) reads the same two variables).
maintainer="${DEBFULLNAME:-jit-broker} <${DEBEMAIL:-root@$(hostname)}>"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM
root=$work/root
umask 022

install -D -m 755 "$binary" "$root/usr/bin/jit-broker"
strip --strip-unneeded "$root/usr/bin/jit-broker"
for unit in "$top"/systemd/*.service; do
  install -D -m 644 "$unit" "$root/usr/lib/systemd/system/$(basename "$unit")"
done
sed -i 's#/usr/local/bin/jit-broker#/usr/bin/jit-broker#' "$root"/usr/lib/systemd/system/*.service
install -D -m 644 "$top/systemd/sysusers.d/jit-broker.conf" "$root/usr/lib/sysusers.d/jit-broker.conf"
install -D -m 644 "$top/systemd/tmpfiles.d/jit-broker.conf" "$root/usr/lib/tmpfiles.d/jit-broker.conf"

doc=$root/usr/share/doc/jit-broker
install -D -m 644 "$top/README.md" "$doc/README.md"
mkdir -p "$doc/examples"
cp -r "$top"/config/. "$doc/examples/"
find "$doc/examples" -type f -exec chmod 644 {} +
cat > "$doc/copyright" <<COPYRIGHT
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: jit-broker

Files: *
Copyright: 2026 The jit-broker authors
License: Apache-2.0
 On Debian systems the full text of the Apache License 2.0 is in
 /usr/share/common-licenses/Apache-2.0.
COPYRIGHT
printf 'jit-broker (%s) stable; urgency=medium\n\n  * This version.\n\n -- %s  %s\n' \
  "$version" "$maintainer" "$(LC_ALL=C date -u -R -d "@${SOURCE_DATE_EPOCH:-0}")" | gzip -9n > "$doc/changelog.gz"

# Man pages and completions come from the binary itself, where it makes them.
mkdir "$work/man"
if "$binary" man --out "$work/man" >/dev/null 2>&1; then
  mkdir -p "$root/usr/share/man/man1"
  for page in "$work"/man/*.1; do
    gzip -9n < "$page" > "$root/usr/share/man/man1/$(basename "$page").gz"
  done
fi
completion() {
  if "$binary" completions "$1" > "$work/completion" 2>/dev/null; then
    install -D -m 644 "$work/completion" "$root/$2"
  fi
}
completion bash usr/share/bash-completion/completions/jit-broker
completion zsh usr/share/zsh/vendor-completions/_jit-broker
completion fish usr/share/fish/vendor_completions.d/jit-broker.fish

# The oldest C library that has what the binary uses.
glibc=$(objdump -T "$root/usr/bin/jit-broker" | sed -n 's/.*(\{0,1\}GLIBC_\([0-9.]*\).*/\1/p' | sort -uV | tail -n 1)
size=$(du -k -s "$root" | cut -f1)
mkdir -p "$root/DEBIAN"
sed -e "s/@VERSION@/$version/" -e "s/@ARCH@/$arch/" -e "s/@GLIBC@/$glibc/" -e "s/@SIZE@/$size/" \
  -e "s/@MAINTAINER@/$maintainer/" "$here/control" > "$root/DEBIAN/control"
for script in postinst prerm postrm; do
  install -m 755 "$here/$script" "$root/DEBIAN/$script"
done
(cd "$root" && find usr -type f -exec md5sum {} + | LC_ALL=C sort -k2 > DEBIAN/md5sums)

mkdir -p "$out"
package=$out/jit-broker_${version}_$arch.deb
dpkg-deb --root-owner-group --build -Z"${COMPRESS:-xz}" "$root" "$package" >/dev/null
echo "$package"
