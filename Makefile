# Every target sets up what it needs by itself, by name, and is quick the second time.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMPS := .build/stamps
BUILD := $(BIN)/python -P deploy/harness/build.py
export PYTHONSAFEPATH := 1

# Debian packages: what a mount, the demo and the tests use. The bench installs its peers itself (bench/install.sh).
DEBIAN := python3-venv fuse3 nginx-light util-linux iproute2
# What the nodes of `make cluster` run beside what deploy/harness/build.py builds and unpacks (docs/harness.md).
DEBIAN_CLUSTER := util-linux iproute2 nftables iptables

.PHONY: help demo test test-here test-unit test-mount test-kube test-long lint bench clean setup csi-sanity programs ci-stages

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

define install
	@mkdir -p $(STAMPS)
	@missing=""; for p in $(1); do dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$p"; done; \
	if [ -n "$$missing" ]; then \
	  if [ "$$(id -u)" = 0 ]; then sudo=""; elif command -v sudo >/dev/null; then sudo=sudo; else \
	    echo "these Debian packages are missing and need root to install:$$missing" >&2; exit 1; fi; \
	  echo "installing$$missing"; \
	  $$sudo apt-get update -qq && DEBIAN_FRONTEND=noninteractive $$sudo apt-get install -y -qq --no-install-recommends $$missing >/dev/null || exit 1; \
	fi
	@touch $@
endef

$(STAMPS)/debian: Makefile
	$(call install,$(DEBIAN))

$(STAMPS)/debian-cluster: Makefile
	$(call install,$(DEBIAN_CLUSTER))

# A venv remembers its absolute path, so a moved checkout makes its own again.
$(STAMPS)/venv: pyproject.toml $(STAMPS)/debian
	@$(BIN)/python -c 'import sys, os; sys.exit(os.path.realpath(sys.prefix) != os.path.realpath("$(VENV)"))' 2>/dev/null \
	  || { rm -rf $(VENV); $(PYTHON) -c 'import sys; sys.exit("forebay needs Python 3.11 or newer, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)' && $(PYTHON) -m venv $(VENV); }
	@$(BIN)/pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $@

setup: $(STAMPS)/venv ## Debian packages and the virtual environment, nothing else

demo: $(STAMPS)/venv ## the main job: three stores, one tree, mounted, read cold and warm, every byte verified
	@$(BIN)/forebay demo

# What must pass, in order.
TEST := lint test-here test-kube
# The same for `.ci/run`, and what belongs to it there, in its order. What is joined by + goes on at the same time (pods mostly
# wait), what is joined by commas one after the other in it. Tests of mounts and workers are alone: they look at the clock.
CI_STEPS := lint test-mount e2e+test-kube,test-unit,csi-sanity

test: $(TEST) ## all that must pass

test-here: test-unit test-mount ## of it what needs no Kubernetes

# `-n`: processes at once, a file of tests in one of them, since fixtures belong to files. Each stage of tests remembers by itself
# what failed: stages that run at the same time would forget each other's.
PYTEST = $(BIN)/pytest -q -rs -o cache_dir=.pytest_cache/$@
test-unit: $(STAMPS)/venv
	@$(PYTEST) -n 2 --dist loadfile $(AGAIN) -m "not long" tests/unit

# With a quick S3 server: moto, in its place, costs these tests minutes. MOUNTS_AT_ONCE: files of tests at once; 0 is one after
# the other in this process.
MOUNTS_AT_ONCE ?= 0
test-mount: $(STAMPS)/venv
	@$(BUILD) versitygw >/dev/null
	@FOREBAY_VERSITYGW="$$($(BUILD) versitygw | $(BIN)/python -c 'import json, sys; print(json.load(sys.stdin)["versitygw"])')" $(PYTEST) -n $(MOUNTS_AT_ONCE) --dist loadfile $(AGAIN) -m "not long" tests/cluster tests/mount

# Files of tests at once. Each process has API servers of its own, which take an eighth of a core each even when nobody asks them.
AT_ONCE ?= 3
# Built once, outside the repository (docs/kube.md): minutes on two cores the first time, 0.1 s then.
PLANE := kube-apiserver kube-controller-manager kube-scheduler etcd helm
test-kube: $(STAMPS)/venv ## of it what talks to a real API server; the first time it builds Kubernetes
	@$(BUILD) $(PLANE) >/dev/null
	@$(PYTEST) -n $(AT_ONCE) --dist loadfile --no-loadscope-reorder $(AGAIN) -m "not long" tests/kube

csi-sanity: $(STAMPS)/venv ## the CSI driver against csi-sanity, in full (root)
	@$(BUILD) csi-sanity >/dev/null
	@$(BIN)/python -P tests/support/csi_sanity.py "$$($(BUILD) csi-sanity | $(BIN)/python -c 'import json, sys; print(json.load(sys.stdin)["csi-sanity"])')" --ginkgo.no-color

# In the order in which the stages of `.ci/run` want them; what is built already costs 0.1 s.
programs: $(STAMPS)/venv ## everything that tests build once: Kubernetes and what belongs to it
	@$(BUILD) versitygw >/dev/null
	@$(BUILD) $(PLANE) >/dev/null
	@$(BUILD) csi-sanity >/dev/null
	@PYTHONPATH=deploy $(BIN)/python -P -c 'from harness import build, cluster; build.get(list(cluster.PROGRAMS))'

ci-stages:
	@echo $(CI_STEPS)

test-long: $(STAMPS)/venv ## chaos, scale, long random sequences
	@$(BUILD) $(PLANE) >/dev/null
	@$(BIN)/pytest -q -m "long" --timeout 3600 --ignore=tests/e2e

.PHONY: cluster cluster-down e2e image
# The first time it builds Kubernetes, outside the repository: about ten minutes on two cores. Then seconds.
cluster: $(STAMPS)/venv $(STAMPS)/debian-cluster ## a Kubernetes of two nodes on this machine, with this working tree's image (root)
	@PYTHONPATH=deploy $(BIN)/python -P -m harness up

cluster-down: $(STAMPS)/venv ## ends it; nothing is left
	@PYTHONPATH=deploy $(BIN)/python -P -m harness down

image: $(STAMPS)/venv ## .build/forebay.tar: image forebay:dev, for `ctr images import`, `docker load`, `podman load`
	@PYTHONPATH=deploy $(BIN)/python -P -m harness.image .build/forebay.tar

e2e: $(STAMPS)/venv $(STAMPS)/debian-cluster ## pods on a Kubernetes of two nodes, which it starts and ends (root)
	@$(PYTEST) $(AGAIN) -m "not long" tests/e2e

lint: $(STAMPS)/venv ## ruff, strict types, import contract
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@set -o pipefail; $(BIN)/lint-imports | tail -3

bench: $(STAMPS)/venv ## the scoreboard, ours beside its peers
	@bench/install.sh
	@$(BIN)/python bench/run.py $(BENCH)

clean: ## remove everything that was set up
	rm -rf .build .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache src/*.egg-info
