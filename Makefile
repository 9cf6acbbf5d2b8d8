# Two commands on a fresh machine: `make demo` and `make test`. Both set everything up first.
PYTHON ?= python3
TOOLS := .venv-uv
UV := $(TOOLS)/bin/uv
VENV := .venv
RUN := $(UV) run --frozen --all-extras
APT := xvfb xauth libgl1 libegl1 libxkbcommon-x11-0 libdbus-1-3 libglib2.0-0 libfontconfig1 \
	libxcb-cursor0 libxcb-icccm4 libxcb-keysyms1 libxcb-shape0

export QT_API := pyside6
export LIBGL_ALWAYS_SOFTWARE := 1
export NAPARI_CONFIG := $(CURDIR)/.tmp/napari/settings.yaml
export UV_PROJECT_ENVIRONMENT := $(VENV)

.PHONY: setup system demo test slow bench lint types arch docs screenshots clean

setup: $(VENV)/.ready

$(UV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "expected Python 3.11 or newer as '$(PYTHON)'; install it, or run: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	@$(PYTHON) -m venv $(TOOLS) || { \
		echo "expected the venv module of $(PYTHON); install it first, on Debian: sudo apt-get install python3-venv"; exit 2; }
	$(TOOLS)/bin/python -m pip install --quiet --upgrade "uv>=0.5"

# torch and torchvision come together from one index; a lone CPU build of torch breaks torchvision.
$(VENV)/.ready: $(UV) pyproject.toml uv.lock
	$(UV) sync --frozen --all-extras --python $(PYTHON)
	@touch $@

# Qt aborts without these libraries, and the canvas needs an X server: a virtual one on a machine without a screen.
system:
	@command -v apt-get >/dev/null || { echo "system packages: not a Debian machine, nothing installed"; exit 0; }; \
	missing=""; for p in $(APT); do dpkg -s $$p >/dev/null 2>&1 || missing="$$missing $$p"; done; \
	[ -z "$$missing" ] && exit 0; \
	if [ "$$(id -u)" = 0 ]; then root=""; elif sudo -n true 2>/dev/null; then root="sudo"; else \
		echo "missing system packages; run: sudo apt-get install -y --no-install-recommends$$missing"; exit 2; fi; \
	$$root apt-get update -qq && $$root apt-get install -y -qq --no-install-recommends $$missing

demo: setup
	$(RUN) maskloop demo -o maskloop-demo

test: system setup
	OMP_NUM_THREADS=1 $(RUN) python -X faulthandler -m pytest -q -n logical --dist loadfile

slow: system setup
	$(RUN) python -X faulthandler -m pytest -q -m slow --timeout 3600

bench: setup
	$(RUN) python benchmarks/run.py

lint: setup
	$(RUN) ruff check . && $(RUN) ruff format --check .

types: setup
	$(RUN) mypy

arch: setup
	$(RUN) lint-imports

docs: setup
	$(RUN) python docs/tables.py

screenshots: system setup
	xvfb-run -a -s "-screen 0 1920x1200x24" $(RUN) python docs/screenshots.py

clean:
	rm -rf $(VENV) $(TOOLS) .tmp dist maskloop-demo
