# Shortcuts for developers; each recipe works by itself as well.
.PHONY: install run check test lint format bench sanitize fake-cuda proof fuzz lighthouse audit sbom

PYTHON = .venv/bin/python
# $(call needs,MODULE,COMMAND): ends a recipe with a sentence where .venv lacks a module that COMMAND brings.
needs = @$(PYTHON) -c 'import $(1)' 2>/dev/null || { echo "'make $@' needs $(1), which .venv does not have. This brings it: $(2)" >&2; exit 1; }
DEVELOPER = make install
# The results name the commits that they were measured at, which look like keys.
COMMITS = '^benchmarks/results/.*\.json$$'

install: ## set up .venv with what the tests need, and run nothing but a listing of them
	./deploy.sh test --collect-only -q

run:
	./deploy.sh development

check: ## what to run after each edit: no system program, no slow test; see CONTRIBUTING.md
	$(call needs,ruff,$(DEVELOPER))
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -q -m "not slow and not needs and not gpu and not deploy" --ignore=tests/e2e

test:
	./deploy.sh test

lint:
	$(call needs,ruff,$(DEVELOPER))
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	.venv/bin/shellcheck -x deploy.sh .ci/run $$(find deploy -name '*.sh')
	$(PYTHON) -m yamllint --strict .github compose.yaml deploy/compose/gpu.yaml deploy
	.venv/bin/hadolint Dockerfile
	.venv/bin/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	.venv/bin/check-jsonschema --builtin-schema vendor.compose-spec compose.yaml deploy/compose/*.yaml
	.venv/bin/zizmor --offline --no-progress .github/workflows/*.yml
	if command -v actionlint; then PATH="$$PWD/.venv/bin:$$PATH" actionlint; else echo "actionlint is not installed, and left out."; fi
	$(PYTHON) -m bandit --quiet --configfile pyproject.toml --recursive .
	git ls-files -z | xargs -0 .venv/bin/detect-secrets-hook --no-verify --exclude-files $(COMMITS)

format:
	$(call needs,ruff,$(DEVELOPER))
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

audit: ## known vulnerabilities of the pinned packages; needs pip-audit in .venv and a way to PyPI
	$(call needs,pip_audit,$(PYTHON) -m pip install pip-audit)
	$(PYTHON) -m deploy.audit

sbom: ## sbom-cpu.cdx.json and sbom-cuda.cdx.json, the software bills of materials of both images
	$(call needs,packaging,$(DEVELOPER))
	for variant in cpu cuda; do $(PYTHON) -m deploy.sbom $$variant >sbom-$$variant.cdx.json; done

bench: ## the engine alone, and what the hooks cost; fails where a target is missed
	$(call needs,torch,$(DEVELOPER))
	missed=0; for name in offline hooks_cost; do $(PYTHON) -m benchmarks.$$name || missed=1; done; exit $$missed

sanitize: ## the kernels under gcc's AddressSanitizer and UBSan, which end at the first error
	$(call needs,pytest,$(DEVELOPER))
	ASAN_OPTIONS=detect_leaks=0 CFLAGS='-g -O1 -fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=all' \
	  LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	  $(PYTHON) -m pytest -q tests/engine/model/kernels --deselect tests/engine/model/kernels/test_build.py

fake-cuda: ## the flat step on fake tensors of a card: needs requirements.txt, in the CUDA build, in .venv-cuda (4.6 GB)
	.venv-cuda/bin/python -m tests.engine.model.cuda.fake_cuda

proof: ## an hour and more: hostile clients, floods and faults against a real Gunicorn; writes tests/RELIABILITY.md
	$(call needs,pytest,$(DEVELOPER))
	$(PYTHON) -m benchmarks.proof

fuzz: ## half an hour for each parser; needs tests/fuzz/requirements.txt in .venv
	$(call needs,atheris,$(PYTHON) -m pip install -r tests/fuzz/requirements.txt)
	for target in image json data_url multipart form http_head schema pattern; do \
	  $(PYTHON) -m tests.fuzz $$target -max_total_time=1800 || exit 1; done

# Scores of the page of a server that runs on PORT. Needs npm and Chromium; both pages shall have 98 and more.
lighthouse:
	for page in / /status; do CHROME_PATH=$${CHROME_PATH:-/usr/bin/chromium} npx --yes lighthouse@12.8.2 \
	  "http://localhost:$${PORT:-8085}$$page" --quiet --output=json --output-path=stdout \
	  --only-categories=performance,accessibility,best-practices \
	  --chrome-flags="--headless --renderer-process-limit=1 --no-sandbox --disable-dev-shm-usage --disable-gpu --disable-background-networking" \
	  | python3 -c 'import json, sys; [print(name, round(100 * kind["score"])) for name, kind in json.load(sys.stdin)["categories"].items()]'; done
