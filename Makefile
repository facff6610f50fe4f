# SPDX-License-Identifier: MIT
#
# make run            the daemon in the foreground, as root; ARGS="..." goes to it, and wins over what is given here
# make test           everything there is to test, as root; TESTS="tests/unit" for a part, ARGS="..." goes to pytest
# make lint           what must hold of the sources
# make bench          figures, beside those of forkstat, extrace, bpftrace and auditd; ARGS="--quick" for the first look
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
test_packages = $(run_packages) $(recorder_packages) systemd procps strace
lint_packages = $(run_packages) systemd shellcheck mandoc
bench_packages = $(run_packages) $(recorder_packages) systemd util-linux auditd bpftrace extrace forkstat

unit = packaging/procwatchd.service
# Tenths of what systemd-analyze prints.
exposure_limit = 19

.PHONY: help run test lint bench install install-data install-python activate uninstall clean
.PHONY: need-root need-run need-test need-lint need-bench FORCE
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
	shellcheck packaging/need .ci/run
	mandoc -Tlint -Wwarning packaging/man/*
	dir=$$(mktemp -d) && trap 'rm -r "$$dir"' EXIT && \
	    sed 's|/usr/bin/procwatchd|/bin/true|' $(unit) >"$$dir/procwatchd.service" && \
	    systemd-analyze verify --man=no "$$dir/procwatchd.service"
	table=$$(systemd-analyze security --offline=true --no-pager --threshold=$(exposure_limit) $(unit)) || \
	    { echo "$$table"; exit 1; }

bench: need-root need-bench $(venv)/stamp-run
	$(venv)/bin/python -m tests.bench $(ARGS)

# Packagers: DESTDIR gets what is not Python (unit, catalog, users, manual, configuration). The package itself is
# built by their own tools (pybuild, pip wheel), and brings /usr/bin/procwatchd.
# Without DESTDIR the package goes into a virtual environment of its own, as Debian 12 has a python3-pydantic too old.
install: install-data $(if $(DESTDIR),,install-python activate)

# A configuration that somebody changed stays; what is shipped now lies beside it.
install-data:
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system $(DESTDIR)/etc/procwatchd.d
	sed 's|/usr/bin/procwatchd|$(PREFIX)/bin/procwatchd|' $(unit) \
	    >$(DESTDIR)$(PREFIX)/lib/systemd/system/procwatchd.service
	chmod 644 $(DESTDIR)$(PREFIX)/lib/systemd/system/procwatchd.service
	install -D -m 644 packaging/procwatchd.catalog $(DESTDIR)$(PREFIX)/lib/systemd/catalog/procwatchd.catalog
	install -D -m 644 packaging/procwatchd.sysusers $(DESTDIR)$(PREFIX)/lib/sysusers.d/procwatchd.conf
	for page in packaging/man/*.[1-8]; do \
	    install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/man/man$${page##*.} $$page || exit; \
	done
	if [ -e $(DESTDIR)/etc/procwatchd.yaml ] && ! cmp -s etc/procwatchd.yaml $(DESTDIR)/etc/procwatchd.yaml; then \
	    install -m 644 etc/procwatchd.yaml $(DESTDIR)/etc/procwatchd.yaml.new; \
	    echo "kept /etc/procwatchd.yaml as it is; see procwatchd.yaml.new beside it"; \
	else \
	    install -m 644 etc/procwatchd.yaml $(DESTDIR)/etc/procwatchd.yaml; \
	fi

# The service has a user of its own, who must be able to read all of it whatever root's umask is.
install-python: need-root need-run
	umask 022 && $(PYTHON) -m venv --clear $(PREFIX)/lib/procwatchd
	umask 022 && $(PREFIX)/lib/procwatchd/bin/pip install --quiet --use-pep517 .
	rm -rf build
	install -d $(PREFIX)/bin
	ln -sf ../lib/procwatchd/bin/procwatchd $(PREFIX)/bin/procwatchd

activate: need-root
	! command -v systemd-sysusers >/dev/null || systemd-sysusers procwatchd.conf
	! command -v journalctl >/dev/null || journalctl --update-catalog
	! [ -d /run/systemd/system ] || systemctl daemon-reload
	! systemctl -q is-active procwatchd.service 2>/dev/null || \
	    echo "the running service is still the one from before: systemctl restart procwatchd"

uninstall: $(if $(DESTDIR),,need-root)
	$(if $(DESTDIR),,! [ -d /run/systemd/system ] || systemctl disable --now procwatchd.service || true)
	rm -rf $(DESTDIR)$(PREFIX)/lib/procwatchd
	rm -f $(DESTDIR)$(PREFIX)/bin/procwatchd $(DESTDIR)$(PREFIX)/lib/systemd/system/procwatchd.service \
	    $(DESTDIR)$(PREFIX)/lib/systemd/catalog/procwatchd.catalog $(DESTDIR)$(PREFIX)/lib/sysusers.d/procwatchd.conf
	for page in packaging/man/*.[1-8]; do \
	    rm -f $(DESTDIR)$(PREFIX)/share/man/man$${page##*.}/$${page##*/}; \
	done
	rm -f $(DESTDIR)/etc/procwatchd.yaml.new
	$(if $(DESTDIR),,! command -v journalctl >/dev/null || journalctl --update-catalog)
	$(if $(DESTDIR),,! [ -d /run/systemd/system ] || systemctl daemon-reload)

clean:
	rm -rf $(recorder).o $(venv) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

need-root:
	@[ "$$(id -u)" = 0 ] || { echo "this must be done as root, for example by: sudo make $(MAKECMDGOALS)" >&2; exit 1; }

need-run:
	@$(need) $(run_packages)
	@$(need) $(recorder_packages) || echo "going on without the recorder"

need-test:
	@$(need) $(test_packages)

need-lint:
	@$(need) $(lint_packages)

need-bench:
	@$(need) $(bench_packages)

# An environment that another interpreter made, or that was made elsewhere, is of no use here.
who = import os, sys; print(os.path.realpath(sys._base_executable), sys.version)
$(venv)/made: FORCE
	@[ -e $@ ] && [ "$$($(PYTHON) -c '$(who)')" = "$$($(venv)/bin/python -c '$(who)' 2>&1)" ] && \
	    grep -q '^command = .* $(CURDIR)/$(venv)$$' $(venv)/pyvenv.cfg || \
	    { echo "making $(venv)" && rm -rf $(venv) && $(PYTHON) -m venv $(venv) && touch $@; }

recorder = procwatchd/kernel/recorder.bpf
# Where there is no object it is tried again: clang may be there by now.
sources = pyproject.toml packaging/build.py $(recorder).c $(if $(wildcard $(recorder).o),,FORCE)

$(venv)/stamp-run: $(sources) $(venv)/made
	$(venv)/bin/pip install --quiet --use-pep517 -e .
	touch $@

$(venv)/stamp-test: $(sources) $(venv)/made
	$(venv)/bin/pip install --quiet --use-pep517 -e '.[test]'
	touch $@

$(venv)/stamp-lint: $(sources) $(venv)/made
	$(venv)/bin/pip install --quiet --use-pep517 -e '.[test,lint]'
	touch $@
