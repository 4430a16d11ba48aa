# Every target has one line of help: `make help`.
SHELL := /bin/bash
CARGO ?= cargo
PREFIX ?= /usr/local
# Where the programs are that `make install` installs.
BUILT ?= target/dist
SYSCONFDIR ?= /etc
# Where systemd looks for what this host's administrator installed.
UNITDIR ?= $(PREFIX)/lib/systemd/system
HOST = $(shell PATH='$(PATH)' rustc -vV | sed -n 's/^host: //p')
# Optimised programs without shared libraries: what is measured, and what runs in other kernels, is built once.
# integration/src/bin/kernels/build.rs builds the same way.
STATIC_CARGO = CARGO_ENCODED_RUSTFLAGS=-Ctarget-feature=+crt-static $(CARGO)
OPTIMISED = --release --target $(HOST) --no-default-features
# Most tests wait for something most of the time.
export RUST_TEST_THREADS ?= 6
CARGO_BIN := $(if $(CARGO_HOME),$(CARGO_HOME),$(HOME)/.cargo)/bin
# Not twice, where one target calls another: what compiles the agent looks for its tools there, anew if it differs.
export PATH := $(PATH)$(if $(filter $(CARGO_BIN),$(subst :, ,$(PATH))),,:$(CARGO_BIN))

.DEFAULT_GOAL := help
.PHONY: help setup setup-tests build run test model soak faults fuzz test-etcd test-health test-kubernetes test-observe test-packet-path kernels check reference fmt bench bench-hooks bench-etcd bench-kubernetes bench-packets bench-probes simulate documents install uninstall static deb test-packages test-package-files clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

setup: ## install what the build needs, where it is missing
	@sh lb-bpf/setup.sh

setup-tests: ## the same, and what the tests need
	@sh lb-bpf/setup.sh tests

build: setup ## build the agent and lbctl, as they are installed: small, in target/dist
	$(CARGO) build --profile dist -p lb-agent

run: setup ## the quickstart: a service address answered by two backends, on this host (root)
	$(CARGO) build -p lb-agent -p integration --bins
	@target/debug/quickstart

test: setup-tests ## everything: unit, property, layering and real-kernel tests, some of them in Linux 6.1, too (root, network, x86_64)
	@sh lb-bpf/setup.sh kernels
	$(CARGO) build --workspace --exclude lb-bpf --bins
	$(CARGO) test --workspace --exclude lb-bpf --no-fail-fast
	$(STATIC_CARGO) build $(OPTIMISED) -p lb-agent -p integration --bins
	$(STATIC_CARGO) test $(OPTIMISED) -p integration --test scale --test ratios
	$(STATIC_CARGO) test $(OPTIMISED) -p integration --test observe ten_thousand
	target/debug/kernels --kernels 6.1 --short
	$(MAKE) test-package-files

model: setup ## the publishing protocol, explored in every order of events; and every rule broken
	$(CARGO) test -p lb-agent --lib -- plan::proof --nocapture --test-threads=1

soak: setup ## connects against changes in the real kernel, DURATION=60s, SEED=n; ends with a line of JSON (root)
	@$(CARGO) build -p integration --bin soak
	@target/debug/soak --duration $(or $(DURATION),60s) $(if $(SEED),--seed $(SEED))

faults: setup-tests ## what fails, at any step: plans, the host, upgrades, and the agent killed 200 times under churn and traffic (root)
	$(CARGO) build -p lb-agent --bins
	$(CARGO) test -p lb-agent --test faults
	STOPPED=$(or $(STOPPED),100s) $(CARGO) test -p integration --test faults_around
	$(CARGO) build -p lb-agent --features other-layout --bin lb-agent-other-layout
	$(CARGO) test -p integration --test faults_around two_builds:: -- --ignored
	$(CARGO) test -p integration --test limits --test restart --test detach
	$(CARGO) test -p integration --test outcomes a_flood_of_failures
	$(CARGO) test -p integration --test etcd clock::
	$(CARGO) test -p integration --test observe trace::what_is_lost_is_told
	KILLS=$(or $(KILLS),200) $(CARGO) test -p integration --test killed -- --nocapture

fuzz: ## what parses foreign bytes, by cargo-fuzz, which it installs where it is missing (TARGET=tables DURATION=60s)
	@sh lb-bpf/setup.sh fuzz
	sh lb-agent/fuzz/run.sh $(or $(DURATION),60s) $(TARGET)

test-etcd: setup-tests ## what has to do with etcd and names, against real servers (root)
	$(CARGO) build -p lb-agent --bins
	$(CARGO) test -p lb-agent --lib -- etcd names
	$(CARGO) test -p integration --test etcd --test names

test-health: setup-tests ## checks, ejection, drain and weight, in the real kernel and on real servers (root)
	$(CARGO) build -p lb-agent --bins
	$(CARGO) test -p lb-agent --lib -- health:: admin::
	$(CARGO) test -p integration --test health --test 'outcomes*' --test unanswered --test given_up

test-kubernetes: setup-tests ## services of a cluster: translation, sources, and pods in the real kernel (root)
	$(CARGO) build -p lb-agent --bins
	$(CARGO) test -p lb-agent --lib -- kubernetes kubeproxy:: addresses:: forecast:: reconcile::revisions
	$(CARGO) test -p lb-agent --test ctl -- explain
	$(CARGO) test -p integration --test kubernetes --test pods --test exclude --test reach
	$(STATIC_CARGO) build $(OPTIMISED) -p lb-agent -p integration --bins
	$(STATIC_CARGO) test $(OPTIMISED) -p integration --test scale -- a_cluster

test-observe: setup-tests ## what the agent shows of itself: HTTP, metrics, logs, trace, the page (root)
	$(CARGO) build -p lb-agent --bins
	$(CARGO) test -p lb-agent --lib -- api:: metrics:: telemetry:: pulse:: ctl:: summary:: shown:: trace:: explain:: sockets:: heard::
	$(CARGO) test -p integration --lib -- exposition
	$(CARGO) test -p integration --test observe --test events -- --skip ten_thousand::
	$(STATIC_CARGO) build $(OPTIMISED) -p lb-agent -p integration --bins
	$(STATIC_CARGO) test $(OPTIMISED) -p integration --test observe ten_thousand

test-packet-path: setup-tests ## what comes in packets from other hosts and from guests, by real packets (root)
	$(CARGO) build -p lb-agent --bins
	$(CARGO) test -p integration --test packet_path

kernels: ## the tests in other kernels, emulated (KERNELS=5.10,6.1 TESTS=tcp,udp SHORT=1 JSON=1 UPDATE=1; root)
	@sh lb-bpf/setup.sh kernels
	@$(CARGO) build -p integration --bin kernels
	@target/debug/kernels $(if $(KERNELS),--kernels $(KERNELS)) $(if $(TESTS),--tests $(TESTS)) \
		$(if $(SHORT),--short) $(if $(JSON),--json) $(if $(UPDATE),--update)

check: setup ## the quick loop: formatting, lints, links in comments, unit tests (root: one of them makes a kernel table)
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --workspace --exclude lb-bpf --no-deps --document-private-items
	$(CARGO) test -p lb-common -p lb-agent --lib --tests

reference: setup ## schemas and tables of keys in docs/, made anew from the parser's list of keys
	UPDATE=1 $(CARGO) test -p lb-agent --lib -- keys::tests::docs_have_what_the_list_says

fmt: ## format all code
	$(CARGO) fmt --all

bench: ## ours and others side by side: table, plots, target/bench (QUICK=1, SECTIONS=..., SEED=n, JSON=1, UPDATE=1, AGAIN=1; root)
	@sh lb-bpf/setup.sh others
	@# What lacks here is skipped there, and said.
	-@sh lb-bpf/setup.sh benchmark
	@$(CARGO) build --release -p lb-agent -p integration --bins
	@# Their sizes are part of a whole run.
	@$(if $(QUICK)$(SECTIONS)$(AGAIN),,$(CARGO) build --profile dist -p lb-agent)
	@target/release/bench $(SECTIONS) $(if $(QUICK),--quick) $(if $(SEED),--seed $(SEED)) \
		$(if $(JSON),--json) $(if $(UPDATE),--update) $(if $(AGAIN),--again)

bench-hooks: ## the part of it that is nanoseconds per hook (QUICK=1, JSON=1; root)
	@$(MAKE) --no-print-directory bench SECTIONS=hooks

bench-etcd: ## from a put in etcd to a connect that sees it, by the number of services (QUICK=1, JSON=1; root)
	@sh lb-bpf/setup.sh others
	@$(CARGO) build --release -p lb-agent -p integration --bins
	@target/release/bench control-etcd --out target/bench/control-etcd $(if $(QUICK),--quick) $(if $(JSON),--json)

bench-kubernetes: setup ## from an endpoint in a cluster to a connect that sees it, by the number of services (QUICK=1, JSON=1; root)
	@$(CARGO) build --release -p lb-agent -p integration --bins
	@target/release/bench control-kubernetes --out target/bench/control-kubernetes $(if $(QUICK),--quick) $(if $(JSON),--json)

bench-packets: ## the first packet from another host, by the number of services (QUICK=1, JSON=1; root)
	@sh lb-bpf/setup.sh others
	@$(CARGO) build --release -p lb-agent -p integration --bins
	@target/release/bench packets --out target/bench/packets $(if $(QUICK),--quick) $(if $(JSON),--json)

bench-probes: setup ## what checks of 10,000 targets every 2 seconds cost (QUICK=1, JSON=1; root)
	@$(CARGO) build --release -p lb-agent -p integration --bins
	@target/release/bench probes --out target/bench/probes $(if $(QUICK),--quick) $(if $(JSON),--json)

simulate: ## one etcd and as many hosts as this machine bears, and what 5,000 would ask (QUICK=1, JSON=1; root)
	@sh lb-bpf/setup.sh others
	@$(CARGO) build --release -p lb-agent -p integration --bins
	@target/release/bench scale --out target/bench/scale $(if $(QUICK),--quick) $(if $(JSON),--json)

documents: build ## manual pages, shell completions and schemas of the configuration, in target/documents
	target/dist/lb-agent documents target/documents

install: documents ## install programs, manual pages, completions, schemas and the systemd unit below DESTDIR and PREFIX
	install -D -m 0755 $(BUILT)/lb-agent $(DESTDIR)$(PREFIX)/sbin/lb-agent
	install -D -m 0755 $(BUILT)/lbctl $(DESTDIR)$(PREFIX)/bin/lbctl
	install -d $(DESTDIR)$(PREFIX)/share/man/man1 $(DESTDIR)$(PREFIX)/share/man/man8
	install -m 0644 target/documents/man/*.1 $(DESTDIR)$(PREFIX)/share/man/man1/
	install -m 0644 target/documents/man/*.8 $(DESTDIR)$(PREFIX)/share/man/man8/
	install -d $(DESTDIR)$(PREFIX)/share/lb-agent
	install -m 0644 target/documents/schemas/*.json $(DESTDIR)$(PREFIX)/share/lb-agent/
	for program in lb-agent lbctl; do \
		install -D -m 0644 target/documents/completions/bash/$$program.bash \
			$(DESTDIR)$(PREFIX)/share/bash-completion/completions/$$program; \
		install -D -m 0644 target/documents/completions/zsh/_$$program \
			$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_$$program; \
		install -D -m 0644 target/documents/completions/fish/$$program.fish \
			$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/$$program.fish; \
	done
	install -d $(DESTDIR)$(UNITDIR)
	sed 's|/usr/sbin/lb-agent|$(PREFIX)/sbin/lb-agent|; s|/etc/lb-agent|$(SYSCONFDIR)/lb-agent|' \
		examples/systemd/lb-agent.service > $(DESTDIR)$(UNITDIR)/lb-agent.service
	test -n "$(DESTDIR)" || getent group lb-agent > /dev/null || groupadd --system lb-agent
	test -n "$(DESTDIR)" || getent passwd lb-agent > /dev/null || useradd --system --gid lb-agent \
		--no-create-home --home-dir /var/lib/lb-agent --shell /usr/sbin/nologin lb-agent
	test -e $(DESTDIR)$(SYSCONFDIR)/lb-agent/lb-agent.yaml || \
		install -D -m 0644 packages/lb-agent.yaml $(DESTDIR)$(SYSCONFDIR)/lb-agent/lb-agent.yaml

uninstall: ## remove what `make install` installed, but for the configuration
	rm -rf $(DESTDIR)$(PREFIX)/share/lb-agent
	rm -f $(DESTDIR)$(PREFIX)/sbin/lb-agent $(DESTDIR)$(PREFIX)/bin/lbctl $(DESTDIR)$(UNITDIR)/lb-agent.service
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/share/,man/man8/lb-agent.8 man/man8/lb-agent-*.8 man/man1/lbctl.1 man/man1/lbctl-*.1)
	rm -f $(foreach program,lb-agent lbctl,$(addprefix $(DESTDIR)$(PREFIX)/share/,\
		bash-completion/completions/$(program) zsh/site-functions/_$(program) fish/vendor_completions.d/$(program).fish))

# glibc's own resolver (files and DNS) is part of it; other ways to look names up are not.
static: setup ## what the image has, in target/static: programs without shared libraries
	$(STATIC_CARGO) build --profile dist -p lb-agent --bins --target $(HOST)
	sh packages/image.sh target/$(HOST)/dist target/static

# Below 15 MB each: they are on every host.
test-packages: deb static ## the Debian package and the image's files, each tried in a root of its own (root, network)
	@sh lb-bpf/setup.sh tests
	for program in lb-agent lbctl; do test $$(stat -c %s target/dist/$$program) -lt 15000000 && \
		test $$(stat -c %s target/$(HOST)/dist/$$program) -lt 15000000 || exit 1; done
	sh packages/test-deb.sh "$$(ls -t target/debian/lb-agent_*.deb | head -n 1)"
	LB_PACKAGE="$$(ls -t $$PWD/target/debian/lb-agent_*.deb | head -n 1)" $(CARGO) test --workspace --exclude lb-bpf --test systemd -- --ignored
	sh packages/test-image.sh target/static
	sh packages/test-kube-proxy.sh target/static
	sh packages/test-install.sh target/dist

# What `make test` has of it: the same, of programs that other tests need too.
test-package-files:
	@sh lb-bpf/setup.sh tests packages
	$(STATIC_CARGO) build $(OPTIMISED) -p lb-agent -p integration --bins
	sh packages/test.sh target/$(HOST)/release

deb: documents ## a Debian package, in target/debian (installs cargo-deb, where it is missing)
	@sh lb-bpf/setup.sh packages
	$(CARGO) deb -p lb-agent --profile dist --no-build --no-strip

clean: ## remove what was built
	$(CARGO) clean
