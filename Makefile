# SPDX-License-Identifier: MIT
#
# make run            the daemon in the foreground, as root; ARGS="..." goes to it, and wins over what is given here
# make test           everything there is to test, as root; TESTS="tests/unit" for a part, ARGS="..." goes to pytest
# make lint           what must hold of the sources
# make bench          figures, beside those of forkstat, extrace, bpftrace and auditd; ARGS="--quick" for the first look
# make screenshots    the pictures in the README, of a small build that it runs; as root
# make deb            the Debian package, into dist/, built in a clean Debian 13; as root
# make check-deb      … and what Debian asks of it: built twice the same, lintian, piuparts
# make e2e            the package in booted virtual machines, on several kernels; ARGS="--kernel 6.1"; as root
# make dist           the sdist and the wheel, into dist/
# make check-packages the .rpm and Arch's package have what they should, the wheel runs in a clean Debian 12; as root
# make release VERSION=1.2.3   all that is released, into dist/, and its tag; ARGS="--dry-run" for all but the tag; as root
# make install        onto this machine, as root; with DESTDIR, for packagers: all but the Python package
# make uninstall      removes it again, but not the configuration
# make clean          removes what the others made here, .venv with it

# By its path, since another one may come first in PATH, without what Debian's has.
PYTHON ?= /usr/bin/python3
PREFIX = /usr
DESTDIR =
ARGS =
TESTS =

venv = .venv
need = packaging/need

run_packages = python3 python3-venv python3-dev gcc libc6-dev pkg-config libsystemd-dev
# For the recorder: where they cannot be had, arguments are read from /proc alone.
recorder_packages = clang libbpf-dev libbpf1
test_packages = $(run_packages) $(recorder_packages) systemd procps strace git systemd-journal-remote openssl fish zsh chromium
# Installed they would start services: tests start the programs themselves.
fleet_packages = promtool,prometheus prometheus-node-exporter rsyslog libestr0 libfastjson4 liblognorm5
dist_packages = $(recorder_packages) git python3-build python3-venv
other_packages = $(dist_packages) libarchive-tools makepkg mmdebstrap debian-archive-keyring \
    pacman-package-manager python3-installer python3-setuptools python3-shtab python3-wheel rpm
e2e_packages = qemu-system-x86 mmdebstrap debian-archive-keyring e2fsprogs systemd
deb_packages = mmdebstrap debian-archive-keyring util-linux
lint_packages = $(run_packages) systemd shellcheck mandoc
bench_packages = $(run_packages) $(recorder_packages) systemd systemd-journal-remote util-linux auditd bpftrace extrace forkstat

unit = packaging/procwatchd.service
documents = $(PREFIX)/share/doc/procwatchd
examples = $(documents)/examples
bash_completions = $(PREFIX)/share/bash-completion/completions
zsh_completions = $(PREFIX)/share/zsh/site-functions
fish_completions = $(PREFIX)/share/fish/vendor_completions.d
rules = $(PREFIX)/share/procwatchd/rules
# Tenths of what systemd-analyze prints.
exposure_limit = 17

.PHONY: help run test lint bench deb check-deb e2e dist check-packages release screenshots
.PHONY: install install-data install-python install-completions activate uninstall clean
.PHONY: need-root need-run need-test need-lint need-bench need-deb need-e2e need-dist need-other FORCE
# A half-made stamp would be taken for a whole one.
.DELETE_ON_ERROR:
# What installs must come before what it installs is used.
.NOTPARALLEL:

help:
	@sed -n 's/^# make/make/p' Makefile

run: need-root need-run $(venv)/stamp-run
	nice -n -10 $(venv)/bin/procwatchd -c etc/procwatchd.yaml --output text $(ARGS)

test: need-root need-test $(venv)/stamp-test
	$(venv)/bin/python -m pytest $(TESTS) $(ARGS)

# For its unit to be verified the program need not be installed.
lint: need-lint $(venv)/stamp-lint
	$(venv)/bin/ruff check .
	$(venv)/bin/ruff format --check .
	$(venv)/bin/mypy
	$(venv)/bin/codespell
	shellcheck -x packaging/need packaging/unpack packaging/lib.sh packaging/fleet/certificates packaging/dist packaging/release packaging/check-* packaging/arch/* \
	    packaging/deb/* debian/*.p* debian/tests/journal tests/e2e/root.sh .ci/run
	mandoc -Tlint -Wwarning packaging/man/*
	dir=$$(mktemp -d) && trap 'rm -r "$$dir"' EXIT && \
	    sed 's|/usr/bin/procwatchd|/bin/true|' $(unit) >"$$dir/procwatchd.service" && \
	    systemd-analyze verify --man=no "$$dir/procwatchd.service"
	table=$$(systemd-analyze security --offline=true --no-pager --threshold=$(exposure_limit) $(unit)) || \
	    { echo "$$table"; exit 1; }

bench: need-root need-bench $(venv)/stamp-run
	$(venv)/bin/python -m tests.bench $(ARGS)

screenshots: need-root need-run $(venv)/stamp-run
	$(venv)/bin/python packaging/screenshots/make.py

deb: need-root need-deb
	packaging/deb/build dist

check-deb: deb
	packaging/deb/check dist

e2e: need-root need-e2e deb
	$(PYTHON) -m tests.e2e $(ARGS)

dist: need-dist
	packaging/dist dist

check-packages: need-root need-other
	packaging/check-packages

release: need-root
	packaging/release $(ARGS) $(VERSION)

# Packagers: DESTDIR gets what is not Python (unit, catalog, users, manual, configuration). The package itself is
# built by their own tools (pybuild, pip wheel), and brings /usr/bin/procwatchd and /usr/bin/procwatchctl. What shells
# complete is made by shtab, which $(PYTHON) must have, but for fish, which shtab does not know everywhere.
# Without DESTDIR the package goes into a virtual environment of its own, as Debian 12 has a python3-pydantic too old.
install: install-data $(if $(DESTDIR),,install-python) install-completions $(if $(DESTDIR),,activate)

# A configuration that somebody changed stays; what is shipped now lies beside it.
install-data:
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system $(DESTDIR)/etc/procwatchd.d
	sed 's|/usr/bin/procwatchd|$(PREFIX)/bin/procwatchd|' $(unit) \
	    >$(DESTDIR)$(PREFIX)/lib/systemd/system/procwatchd.service
	chmod 644 $(DESTDIR)$(PREFIX)/lib/systemd/system/procwatchd.service
	install -D -m 644 packaging/procwatchd.catalog $(DESTDIR)$(PREFIX)/lib/systemd/catalog/procwatchd.catalog
	install -D -m 644 packaging/procwatchd.sysusers $(DESTDIR)$(PREFIX)/lib/sysusers.d/procwatchd.conf
	install -D -m 644 packaging/procwatchd.preset $(DESTDIR)$(PREFIX)/lib/systemd/system-preset/50-procwatchd.preset
	for page in packaging/man/*.[1-8]; do \
	    install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/man/man$${page##*.} $$page || exit; \
	done
	install -d $(DESTDIR)$(examples)
	install -m 644 packaging/fleet/* $(DESTDIR)$(examples)
	install -d $(DESTDIR)$(rules)
	install -m 644 etc/procwatchd.d/*.yaml $(DESTDIR)$(rules)
	if [ -e $(DESTDIR)/etc/procwatchd.yaml ] && ! cmp -s etc/procwatchd.yaml $(DESTDIR)/etc/procwatchd.yaml; then \
	    install -m 644 etc/procwatchd.yaml $(DESTDIR)/etc/procwatchd.yaml.new; \
	    echo "kept /etc/procwatchd.yaml as it is; see procwatchd.yaml.new beside it"; \
	else \
	    install -m 644 etc/procwatchd.yaml $(DESTDIR)/etc/procwatchd.yaml; \
	fi

# The service has a user of its own, who must be able to read all of it whatever root's umask is.
install-python: need-root need-run
	umask 022 && $(PYTHON) -m venv --clear $(PREFIX)/lib/procwatchd
	umask 022 && $(PREFIX)/lib/procwatchd/bin/pip install --quiet --use-pep517 '.[completions]'
	rm -rf build
	install -d $(PREFIX)/bin
	ln -sf ../lib/procwatchd/bin/procwatchd $(PREFIX)/bin/procwatchd
	ln -sf ../lib/procwatchd/bin/procwatchctl $(PREFIX)/bin/procwatchctl

maker = PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=. $(if $(DESTDIR),$(PYTHON),$(PREFIX)/lib/procwatchd/bin/python)
completes = $(maker) -m shtab --error-unimportable procwatchd.ctl.arguments.make_parser

install-completions:
	umask 022 && install -d $(DESTDIR)$(bash_completions) $(DESTDIR)$(zsh_completions) $(DESTDIR)$(fish_completions)
	umask 022 && $(completes) --shell=bash >$(DESTDIR)$(bash_completions)/procwatchctl
	umask 022 && $(completes) --shell=zsh >$(DESTDIR)$(zsh_completions)/_procwatchctl
	umask 022 && $(maker) packaging/fish.py >$(DESTDIR)$(fish_completions)/procwatchctl.fish

activate: need-root
	! command -v systemd-sysusers >/dev/null || systemd-sysusers procwatchd.conf
	! command -v journalctl >/dev/null || journalctl --update-catalog
	! [ -d /run/systemd/system ] || systemctl daemon-reload
	! systemctl -q is-active procwatchd.service 2>/dev/null || \
	    echo "the running service is still the one from before: systemctl restart procwatchd"

uninstall: $(if $(DESTDIR),,need-root)
	$(if $(DESTDIR),,! [ -d /run/systemd/system ] || systemctl disable --now procwatchd.service || true)
	rm -rf $(DESTDIR)$(PREFIX)/lib/procwatchd
	rm -f $(DESTDIR)$(PREFIX)/bin/procwatchd $(DESTDIR)$(PREFIX)/bin/procwatchctl \
	    $(DESTDIR)$(bash_completions)/procwatchctl $(DESTDIR)$(zsh_completions)/_procwatchctl \
	    $(DESTDIR)$(fish_completions)/procwatchctl.fish \
	    $(DESTDIR)$(PREFIX)/lib/systemd/system/procwatchd.service \
	    $(DESTDIR)$(PREFIX)/lib/systemd/catalog/procwatchd.catalog $(DESTDIR)$(PREFIX)/lib/sysusers.d/procwatchd.conf \
	    $(DESTDIR)$(PREFIX)/lib/systemd/system-preset/50-procwatchd.preset
	for page in packaging/man/*.[1-8]; do \
	    rm -f $(DESTDIR)$(PREFIX)/share/man/man$${page##*.}/$${page##*/}; \
	done
	rm -rf $(DESTDIR)$(examples) $(DESTDIR)$(PREFIX)/share/procwatchd
	! [ -d $(DESTDIR)$(documents) ] || rmdir --ignore-fail-on-non-empty $(DESTDIR)$(documents)
	rm -f $(DESTDIR)/etc/procwatchd.yaml.new
	$(if $(DESTDIR),,! command -v journalctl >/dev/null || journalctl --update-catalog)
	$(if $(DESTDIR),,! [ -d /run/systemd/system ] || systemctl daemon-reload)

clean:
	rm -rf $(recorder).*.bpf.o $(venv) .cache build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

need-root:
	@[ "$$(id -u)" = 0 ] || { echo "this must be done as root, for example by: sudo make $(MAKECMDGOALS)" >&2; exit 1; }

need-run:
	@$(need) $(run_packages)
	@$(need) $(recorder_packages) || echo "going on without the recorder"

need-test:
	@$(need) $(test_packages)
	@packaging/unpack .cache/fleet $(fleet_packages)

need-lint:
	@$(need) $(lint_packages)

need-deb:
	@$(need) $(deb_packages)

need-e2e:
	@$(need) $(e2e_packages)

need-dist:
	@$(need) $(dist_packages)

need-other:
	@$(need) $(other_packages)

need-bench:
	@$(need) $(bench_packages)

# An environment that another interpreter made, or that was made elsewhere, is of no use here.
who = import os, sys; print(os.path.realpath(sys._base_executable), sys.version)
$(venv)/made: FORCE
	@[ -e $@ ] && [ "$$($(PYTHON) -c '$(who)')" = "$$($(venv)/bin/python -c '$(who)' 2>&1)" ] && \
	    grep -q '^command = .* $(CURDIR)/$(venv)$$' $(venv)/pyvenv.cfg || \
	    { echo "making $(venv)" && rm -rf $(venv) && $(PYTHON) -m venv $(venv) && touch $@; }

recorder = procwatchd/kernel/recorder
# Where there is no object it is tried again: clang may be there by now.
sources = pyproject.toml packaging/build.py $(recorder).bpf.c $(if $(wildcard $(recorder).*.bpf.o),,FORCE)

$(venv)/stamp-run: $(sources) $(venv)/made
	$(venv)/bin/pip install --quiet --use-pep517 -e .
	touch $@

$(venv)/stamp-test: $(sources) $(venv)/made
	$(venv)/bin/pip install --quiet --use-pep517 -e '.[test]'
	touch $@

$(venv)/stamp-lint: $(sources) $(venv)/made
	$(venv)/bin/pip install --quiet --use-pep517 -e '.[test,lint]'
	touch $@
