# demo, test, lint, bench: each sets the machine up first, says what it does, and stops with one line when something cannot be had.
# Needs: Debian (or a relative with apt-get), make, and Rust with cargo. Everything else is installed when it is missing.

SHELL := /bin/sh
CARGO ?= cargo
RUST_MINIMUM := $(shell sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)

# program:package[,package...]; a program that is there installs nothing.
WANTED := sshd:openssh-server ssh:openssh-client ssh-keygen:openssh-client rsync:rsync git:git openssl:openssl cc:gcc,libc6-dev psql:postgresql-client initdb:postgresql tmux:tmux vim:vim less:less systemd-analyze:systemd dpkg-deb:dpkg objdump:binutils zsh:zsh fish:fish groff:groff-base

# The clients that the tests log in with. npm's and Python's go below target/, at these versions; the JDBC driver is Debian's.
PSYCOPG := 3.3.9
NODE_PG := 8.23.1
# What else comes through the SSH gateway: Ansible, and a client that says what no honest one says.
ANSIBLE := 2.19.14
PARAMIKO := 5.1.0
CLIENT_PROGRAMS := python3:python3,python3-pip node:nodejs npm:npm java:default-jdk-headless javac:default-jdk-headless
JDBC := /usr/share/java/postgresql.jar
CLIENTS = $(or $(CARGO_TARGET_DIR),target)/clients

# What looks at dependencies; built below target/ when there is none of this version.
DENY := 0.20.2
TOOLS = $(abspath $(or $(CARGO_TARGET_DIR),target))/tools
CARGO_DENY = $(TOOLS)/bin/cargo-deny

# sshd is in /usr/sbin, which is not on everybody's path; rustup puts cargo in ~/.cargo/bin.
export PATH := $(PATH):$(HOME)/.cargo/bin:/usr/sbin:/sbin

.PHONY: help demo test lint bench deb setup clients lint-tools cargo-deny

help:
	@echo 'make demo    builds, starts a throw-away broker with an sshd of its own, and plays the story'
	@echo 'make test    every test, with the real ssh, sshd, ssh-keygen, openssl, PostgreSQL and its clients'
	@echo 'make clients the database and SSH clients that the tests log in with, below target/'
	@echo 'make lint    formatting, clippy without a warning, the small client, and what may come in from outside (cargo-deny)'
	@echo 'make deb     a Debian package, below target/debian/'
	@echo 'make bench   measures a release build, and writes benches/RESULTS.md'

demo: setup
	$(CARGO) build --release --locked
	./target/release/jit-broker dev --story

test: setup clients
	$(CARGO) test --workspace --locked

lint: setup lint-tools cargo-deny
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	$(CARGO) clippy --package jit-broker --bins --no-default-features --locked -- -D warnings
	$(CARGO_DENY) --locked check bans licenses sources

deb: setup
	$(CARGO) build --release --locked
	@sh systemd/debian/build.sh $(or $(CARGO_TARGET_DIR),target)/release/jit-broker $(or $(CARGO_TARGET_DIR),target)/debian

bench: setup
	CARGO='$(CARGO)' sh benches/run.sh

setup:
	@set -eu; \
	stop() { echo "setup: $$*" >&2; exit 1; }; \
	have() { command -v "$$1" >/dev/null 2>&1 || ls /usr/lib/postgresql/*/bin/"$$1" >/dev/null 2>&1; }; \
	command -v $(CARGO) >/dev/null 2>&1 && command -v rustc >/dev/null 2>&1 \
	  || stop 'there is no Rust toolchain; install Rust $(RUST_MINIMUM) or later (https://rustup.rs) and run make again.'; \
	rust=$$(rustc --version | cut -d' ' -f2 | cut -d- -f1); \
	[ "$$(printf '%s\n' '$(RUST_MINIMUM)' "$$rust" | sort -V | head -n 1)" = '$(RUST_MINIMUM)' ] \
	  || stop "Rust $$rust is too old; $(RUST_MINIMUM) or later is needed: rustup update stable"; \
	missing=; \
	for pair in $(WANTED); do \
	  have "$${pair%%:*}" && continue; \
	  for package in $$(echo "$${pair#*:}" | tr , ' '); do \
	    case " $$missing " in *" $$package "*) ;; *) missing="$$missing $$package" ;; esac; \
	  done; \
	done; \
	missing=$${missing# }; \
	as_root=; [ "$$(id -u)" = 0 ] || as_root=sudo; \
	if [ -n "$$missing" ]; then \
	  command -v apt-get >/dev/null 2>&1 || stop "missing: $$missing; there is no apt-get here, install them and run make again."; \
	  [ -z "$$as_root" ] || command -v sudo >/dev/null 2>&1 || stop "missing: $$missing; as root: apt-get install $$missing"; \
	  echo "setup: installing $$missing with $${as_root:+sudo }apt-get"; \
	  case " $$missing " in *' openssh-server '*) echo 'setup: (openssh-server starts an sshd on port 22 where systemd runs; jit-broker does not use it)';; esac; \
	  case " $$missing " in *' postgresql '*) echo 'setup: (postgresql may make and start a cluster of its own on port 5432; jit-broker does not use it)';; esac; \
	  $$as_root env DEBIAN_FRONTEND=noninteractive apt-get -q update || echo 'setup: apt-get update failed; going on with the lists that are here'; \
	  $$as_root env DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends $$missing \
	    || stop "apt-get could not install: $$missing"; \
	  for pair in $(WANTED); do \
	    have "$${pair%%:*}" || stop "$${pair%%:*} is still missing after installing $${pair#*:}."; \
	  done; \
	fi; \
	if [ -z "$$as_root" ] && ! [ -d /run/sshd ]; then \
	  echo 'setup: making /run/sshd, which sshd wants when root starts it'; \
	  mkdir -p -m 0755 /run/sshd || stop '/run/sshd cannot be made.'; \
	fi; \
	echo "setup: Rust $$rust and the programs are there"

clients:
	@set -eu; \
	stop() { echo "clients: $$*" >&2; exit 1; }; \
	missing=; \
	for pair in $(CLIENT_PROGRAMS); do \
	  command -v "$${pair%%:*}" >/dev/null 2>&1 || missing="$$missing $$(echo "$${pair#*:}" | tr , ' ')"; \
	done; \
	python3 -m pip --version >/dev/null 2>&1 || missing="$$missing python3-pip"; \
	[ -e $(JDBC) ] || missing="$$missing libpostgresql-jdbc-java"; \
	missing=$${missing# }; \
	if [ -n "$$missing" ]; then \
	  as_root=; [ "$$(id -u)" = 0 ] || as_root=sudo; \
	  command -v apt-get >/dev/null 2>&1 || stop "missing: $$missing; there is no apt-get here, install them and run make again."; \
	  [ -z "$$as_root" ] || command -v sudo >/dev/null 2>&1 || stop "missing: $$missing; as root: apt-get install $$missing"; \
	  echo "clients: installing $$missing with $${as_root:+sudo }apt-get"; \
	  $$as_root env DEBIAN_FRONTEND=noninteractive apt-get -q update || echo 'clients: apt-get update failed; going on with the lists that are here'; \
	  $$as_root env DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends $$missing \
	    || stop "apt-get could not install: $$missing"; \
	fi; \
	python="psycopg $(PSYCOPG) for $$(python3 --version)"; \
	if [ "$$(cat '$(CLIENTS)/python/stamp' 2>/dev/null || true)" != "$$python" ]; then \
	  echo "clients: installing $$python"; \
	  rm -rf '$(CLIENTS)/python'; \
	  python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target '$(CLIENTS)/python' \
	    'psycopg[binary]==$(PSYCOPG)' || stop 'pip could not install psycopg[binary]==$(PSYCOPG).'; \
	  echo "$$python" > '$(CLIENTS)/python/stamp'; \
	fi; \
	ssh="ansible-core $(ANSIBLE) and paramiko $(PARAMIKO) for $$(python3 --version)"; \
	if [ "$$(cat '$(CLIENTS)/ssh/stamp' 2>/dev/null || true)" != "$$ssh" ]; then \
	  echo "clients: installing $$ssh"; \
	  rm -rf '$(CLIENTS)/ssh'; \
	  python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target '$(CLIENTS)/ssh' \
	    'ansible-core==$(ANSIBLE)' 'paramiko==$(PARAMIKO)' || stop "pip could not install $$ssh."; \
	  echo "$$ssh" > '$(CLIENTS)/ssh/stamp'; \
	fi; \
	if [ "$$(cat '$(CLIENTS)/node/stamp' 2>/dev/null || true)" != 'pg $(NODE_PG)' ]; then \
	  echo 'clients: installing pg $(NODE_PG)'; \
	  rm -rf '$(CLIENTS)/node'; mkdir -p '$(CLIENTS)/node'; \
	  npm install --silent --no-audit --no-fund --ignore-scripts --prefix '$(CLIENTS)/node' pg@$(NODE_PG) \
	    || stop 'npm could not install pg@$(NODE_PG).'; \
	  echo 'pg $(NODE_PG)' > '$(CLIENTS)/node/stamp'; \
	fi; \
	echo 'clients: psql, psycopg, node-postgres, the JDBC driver, Ansible and Paramiko are there'

cargo-deny: setup
	@[ "$$('$(CARGO_DENY)' --version 2>/dev/null)" = 'cargo-deny $(DENY)' ] \
	  || { echo 'lint: building cargo-deny $(DENY); this takes some minutes, once'; \
	       $(CARGO) install --quiet --locked --debug --root '$(TOOLS)' --version '$(DENY)' cargo-deny; } \
	  || { echo 'lint: cargo-deny $(DENY) could not be built: cargo install --locked --version $(DENY) cargo-deny' >&2; exit 1; }

lint-tools: setup
	@$(CARGO) fmt --version >/dev/null 2>&1 && $(CARGO) clippy --version >/dev/null 2>&1 \
	  || { echo 'lint: rustfmt or clippy is missing: rustup component add rustfmt clippy' >&2; exit 1; }
