# The commands of the README. `make demo` and `make test` do all set-up themselves and are safe to repeat.

PREFIX  ?= /usr/local
DESTDIR ?=

CARGO  := cargo
# PID 1 is a static executable at a fixed address; see [profile.init] in Cargo.toml. `cargo rustc` gives these flags to
# this one crate and to none of its dependencies.
STATIC := -C target-feature=+crt-static -C relocation-model=static
TARGET := target/debug

.PHONY: help setup setup-bench build init lint demo test test-fast bench fuzz install clean

help:
	@echo 'make demo                  set up, build everything, boot node-000 and node-001 diskless in qemu'
	@echo 'make test                  set up, then run every check and test'
	@echo 'make build                 build the programs into $(TARGET), and init into target/init'
	@echo 'make bench [ONLY="NAME…"] [ROUNDS=3]  set up, then measure against the usual tools'
	@echo 'make fuzz [SECONDS=60] [ONLY="NAME…"]   run the fuzz targets for so long each'
	@echo 'make install PREFIX=DIR    install programs, init, recipes, example configuration, systemd unit [$(PREFIX)]'

setup:
	@scripts/setup

setup-bench:
	@scripts/setup bench

build: init
	$(CARGO) build --workspace

init:
	$(CARGO) rustc -p init --bin init --profile init -- $(STATIC)

lint:
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) clippy --manifest-path fuzz/Cargo.toml --no-default-features --target-dir target -- -D warnings

demo: setup
	@$(MAKE) --no-print-directory build
	$(TARGET)/bootlab demo

# One choice of packages for all: with another, cargo builds dependencies anew with other features. The system tests share two
# cores, so two at a time.
test: setup
	@$(MAKE) --no-print-directory lint init
	cd tests/rpm-repo && python3 -m unittest discover --quiet
	$(CARGO) build --workspace --bins --tests
	$(CARGO) test --no-fail-fast --workspace --lib --tests -- --test-threads=2

# For the inner loop: no virtual machine is started.
test-fast:
	$(CARGO) test --no-fail-fast --workspace --exclude bootlab --lib --tests
	$(CARGO) test --package bootlab --lib

# Built as init is, so that what is measured is what nodes run; bootserve as it is installed.
bench: setup-bench
	@$(MAKE) --no-print-directory build
	$(CARGO) build --release -p bootserve
	BOOTNODE_BIN_DIR=$(CURDIR)/$(TARGET) $(CARGO) bench --profile init --package bootlab --bench peers -- $(ONLY) $(if $(ROUNDS),--rounds $(ROUNDS))

# Not part of `make test`, which only checks that the targets compile: the instrumented build alone takes minutes.
SECONDS ?= 60
fuzz:
	@fuzz/run $(SECONDS) $(ONLY)

install:
	$(CARGO) rustc -p init --bin init --profile init -- $(STATIC)
	$(CARGO) build --release -p imagebuild -p bootserve -p bootlab
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/bootnode $(DESTDIR)$(PREFIX)/share/bootnode/recipes
	install -m 755 target/release/imagebuild target/release/bootserve target/release/bootlab $(DESTDIR)$(PREFIX)/bin
	install -m 755 target/init/init $(DESTDIR)$(PREFIX)/lib/bootnode/init
	cp -R --no-target-directory rootfs-recipes $(DESTDIR)$(PREFIX)/share/bootnode/recipes
	install -d $(addprefix $(DESTDIR)$(PREFIX)/share/,bash-completion/completions zsh/site-functions fish/vendor_completions.d)
	for program in imagebuild bootserve; do \
		target/release/$$program manual $(DESTDIR)$(PREFIX)/share/man/man1 && \
		target/release/$$program completions bash >$(DESTDIR)$(PREFIX)/share/bash-completion/completions/$$program && \
		target/release/$$program completions zsh >$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_$$program && \
		target/release/$$program completions fish >$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/$$program.fish || exit; \
	done
	install -m 644 bootserve/bootserve.example.toml bootserve/nodes.example.toml $(DESTDIR)$(PREFIX)/share/bootnode
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system
	sed 's|/usr/local|$(PREFIX)|' bootserve/bootserve.service >$(DESTDIR)$(PREFIX)/lib/systemd/system/bootserve.service

clean:
	$(CARGO) clean
