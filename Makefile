# What a developer types most; each line is one command that works by itself too.
.PHONY: install run test lint format bench

PYTHON = .venv/bin/python

install: ## set up .venv with what the tests need, and run nothing but a listing of them
	./deploy.sh test --collect-only -q

run:
	./deploy.sh development

test:
	./deploy.sh test

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(PYTHON) -m shellcheck -x deploy.sh deploy/lib/*.sh .ci/run

format:
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

bench:
	$(PYTHON) -m benchmarks.offline
	$(PYTHON) -m benchmarks.hooks_cost
