# Every target has one line of help: `make help`.
SHELL := /bin/bash
CARGO ?= cargo
PREFIX ?= /usr/local
# Most tests wait for something most of the time.
export RUST_TEST_THREADS ?= 6
export PATH := $(PATH):$(if $(CARGO_HOME),$(CARGO_HOME),$(HOME)/.cargo)/bin

.DEFAULT_GOAL := help
.PHONY: help setup build run test model soak faults test-etcd test-health test-kubernetes test-observe test-packet-path kernels check fmt bench-hooks bench-etcd bench-kubernetes bench-packets bench-probes install clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

setup: ## install what the build and the tests need, where it is missing
	@sh lb-bpf/setup.sh

build: setup ## build the agent and lbctl, optimised
	$(CARGO) build --release -p lb-agent

run: setup ## the quickstart: a service address answered by two backends, on this host (root)
	$(CARGO) build -p lb-agent -p integration --bins
	@target/debug/quickstart

test: setup ## everything: unit, property, layering and real-kernel tests (root)
	$(CARGO) build --workspace --exclude lb-bpf --bins
	$(CARGO) test --workspace --exclude lb-bpf
	$(CARGO) build --release -p lb-agent -p integration --bins --no-default-features
	$(CARGO) test --release -p integration --no-default-features --test scale
	$(CARGO) test --release -p integration --no-default-features --test observe ten_thousand

model: setup ## the publishing protocol, explored in every order of events; and every rule broken
	$(CARGO) test -p lb-agent --lib -- plan::proof --nocapture --test-threads=1

soak: setup ## connects against changes in the real kernel, DURATION=60s, SEED=n; ends with a line of JSON (root)
	@$(CARGO) build -p integration --bin soak
	@target/debug/soak --duration $(or $(DURATION),60s) $(if $(SEED),--seed $(SEED))

faults: setup ## what fails, at any step: plans, the host, upgrades, and the agent killed 200 times under churn and traffic (root)
	$(CARGO) build -p lb-agent --bins
	$(CARGO) test -p lb-agent --test faults
	STOPPED=$(or $(STOPPED),100s) $(CARGO) test -p integration --test faults_around
	KILLS=$(or $(KILLS),200) $(CARGO) test -p integration --test killed -- --nocapture

test-etcd: setup ## what has to do with etcd and names, against real servers (root)
	$(CARGO) build -p lb-agent --bins
	$(CARGO) test -p lb-agent --lib -- etcd names
	$(CARGO) test -p integration --test etcd --test names

test-health: setup ## checks, ejection, drain and weight, in the real kernel and on real servers (root)
	$(CARGO) build -p lb-agent --bins
	$(CARGO) test -p lb-agent --lib -- health:: monitor:: admin::
	$(CARGO) test -p integration --test health --test 'outcomes*' --test unanswered --test given_up

test-kubernetes: setup ## services of a cluster: translation, sources, and pods in the real kernel (root)
	$(CARGO) build -p lb-agent --bins
	$(CARGO) test -p lb-agent --lib -- kubernetes kubeproxy:: addresses:: forecast:: reconcile::revisions
	$(CARGO) test -p lb-agent --test ctl -- explain
	$(CARGO) test -p integration --test kubernetes --test pods --test exclude --test reach
	$(CARGO) build --release -p lb-agent
	$(CARGO) test --release -p integration --test scale -- a_cluster

test-observe: setup ## what the agent shows of itself: HTTP, metrics, logs, trace, the page (root)
	$(CARGO) build -p lb-agent --bins
	$(CARGO) test -p lb-agent --lib -- api:: metrics:: telemetry:: pulse:: monitor:: ctl:: summary:: shown:: trace:: explain:: sockets:: heard::
	$(CARGO) test -p integration --lib -- exposition
	$(CARGO) test -p integration --test observe --test events -- --skip ten_thousand::
	$(CARGO) build --release -p lb-agent
	$(CARGO) test --release -p integration --test observe ten_thousand

test-packet-path: setup ## what comes in packets from other hosts and from guests, by real packets (root)
	$(CARGO) build -p lb-agent --bins
	$(CARGO) test -p integration --test packet_path

kernels: ## the tests in other kernels, emulated (KERNELS=5.10,6.1 TESTS=tcp,udp JSON=1 UPDATE=1; root)
	@sh lb-bpf/setup.sh kernels
	@$(CARGO) build -p integration --bin kernels
	@target/debug/kernels $(if $(KERNELS),--kernels $(KERNELS)) $(if $(TESTS),--tests $(TESTS)) \
		$(if $(JSON),--json) $(if $(UPDATE),--update)

check: setup ## the quick loop: formatting, lints, unit tests (root: one of them makes a kernel table)
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) test -p lb-common -p lb-agent --lib --tests

fmt: ## format all code
	$(CARGO) fmt --all

bench-hooks: setup ## nanoseconds per hook, beside an empty program (JSON=1 for one object a line; root)
	@$(CARGO) build --release -p lb-agent -p integration --bins
	@target/release/bench-hooks $(if $(JSON),--json)

bench-etcd: setup ## from a put in etcd to a connect that sees it, with 10,000 services (JSON=1; root)
	@$(CARGO) build --release -p lb-agent -p integration --bins
	@target/release/bench-etcd $(if $(JSON),--json)

bench-kubernetes: setup ## from an endpoint in a cluster to a connect that sees it, with 10,000 services (JSON=1; root)
	@$(CARGO) build --release -p lb-agent -p integration --bins
	@target/release/bench-kubernetes $(if $(JSON),--json)

bench-packets: setup ## the first packet from another host, by the number of services (JSON=1; root)
	@$(CARGO) build --release -p lb-agent -p integration --bins
	@target/release/bench-packets $(if $(JSON),--json)

bench-probes: setup ## what checks of 10,000 targets every 2 seconds cost (JSON=1; root)
	@$(CARGO) build --release -p lb-agent -p integration --bins
	@target/release/bench-probes $(if $(JSON),--json)

install: build ## install lb-agent and lbctl below PREFIX
	install -D -m 0755 target/release/lb-agent $(DESTDIR)$(PREFIX)/sbin/lb-agent
	install -D -m 0755 target/release/lbctl $(DESTDIR)$(PREFIX)/bin/lbctl

clean: ## remove what was built
	$(CARGO) clean
