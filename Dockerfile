# The image of the service: `docker build -t avito-ai:cpu .`, or `--build-arg VARIANT=cuda -t avito-ai:cuda` for a GPU.
# It contains the two small demo models only; the real ones are mounted at /mnt/data/avito.

# Any image with Python 3.11 to 3.13 and its venv module; for CUDA with Python's headers as well.
ARG BASE=docker.io/library/python:3.11.14-slim-bookworm
ARG VARIANT=cpu

FROM ${BASE} AS packages
ARG VARIANT
# Index for torch; empty: PyTorch's own for the CPU, pip's configuration for CUDA.
ARG TORCH_INDEX_URL=""
WORKDIR /build
# pip is in a virtual environment of its own, which is not part of the image.
RUN python3 -m venv /installer && python3 -m venv --without-pip /venv
COPY requirements.txt ./
COPY deploy/constraints-cuda.txt deploy/
RUN case "$VARIANT" in \
        cpu) index="${TORCH_INDEX_URL:-https://download.pytorch.org/whl/cpu}" ;; \
        cuda) index="$TORCH_INDEX_URL" ;; \
        *) echo "VARIANT=$VARIANT: expected cpu or cuda" >&2; exit 1 ;; \
    esac \
    && /installer/bin/pip --python /venv/bin/python install --no-cache-dir --no-deps \
        ${index:+--index-url "$index"} "$(grep '^torch==' requirements.txt)"
RUN /installer/bin/pip --python /venv/bin/python install --no-cache-dir --requirement requirements.txt \
    && /installer/bin/pip --python /venv/bin/python check \
    && /venv/bin/python -c "import sys, torch; sys.exit(f'torch {torch.__version__} is not the build for $VARIANT' if (torch.version.cuda is None) != ('$VARIANT' == 'cpu') else 0)"

# The CPU kernels, compiled for each supported instruction set, since the machine that runs the image is not known and
# the CPU image has no compiler. A base image with a C compiler needs no apt.
FROM ${BASE} AS kernels
ARG VARIANT
# hadolint ignore=DL3008
RUN if [ "$VARIANT $(uname -m)" = "cpu x86_64" ] && ! command -v cc; then \
        apt-get update \
        && apt-get install --yes --no-install-recommends gcc libc6-dev \
        && rm -rf /var/lib/apt/lists/*; \
    fi
WORKDIR /kernels
COPY engine/model/kernels ./
RUN if [ "$VARIANT $(uname -m)" = "cpu x86_64" ]; then python3 build.py x86-64-v3 x86-64-v4 x86-64-v4+vnni x86-64-v4+bf16; fi

FROM packages AS code
WORKDIR /app
COPY . .
COPY --from=kernels /kernels engine/model/kernels
# The checkout has the modes of its umask, and the service is a user of its own. The root file system is read-only at run
# time, so Python's bytecode is compiled here.
RUN chmod -R u=rwX,go=rX . \
    && /venv/bin/python -m compileall -q --invalidation-mode unchecked-hash .

FROM ${BASE}
ARG VARIANT
# As in telemetry/version.py, which no instruction can read.
ARG VERSION=1.0.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Avito AI API" \
    org.opencontainers.image.description="Avibe (text) and Avision (images) behind a web page, a JSON API and OpenAI's protocol" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"
# The kernels for a GPU are compiled by the first start on it, which needs a compiler and Python's headers.
# hadolint ignore=DL3008
RUN if [ "$VARIANT" = cuda ]; then \
        if ! command -v gcc; then \
            apt-get update \
            && apt-get install --yes --no-install-recommends gcc libc6-dev \
            && rm -rf /var/lib/apt/lists/*; \
        fi \
        && headers="$(python3 -c 'import sysconfig; print(sysconfig.get_path("include", "posix_prefix"))')" \
        && gcc -fsyntax-only -I "$headers" -include Python.h -x c /dev/null; \
    fi
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin avito-ai \
    && install --directory --owner=10001 --group=10001 /var/cache/avito-ai /var/lib/avito-ai
COPY --from=packages /venv /venv
COPY --from=code /app /app
WORKDIR /app
# Three folders are written to: /tmp, a tmpfs if the root file system is read-only; /var/lib/avito-ai with the database
# and the journal of usage, which wants a volume; and with CUDA the folder of the compiled kernels, which a tmpfs of
# Docker cannot be, since nothing on it may be executed. The variants are values of DEVICE, so the one without CUDA sets
# the CPU explicitly, as production requires.
ENV PATH=/venv/bin:$PATH \
    HOME=/tmp \
    TRITON_CACHE_DIR=/var/cache/avito-ai/triton \
    STATE_DIR=/var/lib/avito-ai \
    PYTHONDONTWRITEBYTECODE=1 \
    ENVIRONMENT=production \
    DEVICE=${VARIANT}
USER 10001:10001
EXPOSE 8085
STOPSIGNAL SIGTERM
# Healthy means that both models are ready. The start period is the time that the real ones may take to load.
HEALTHCHECK --interval=10s --timeout=5s --start-period=15m --retries=3 CMD ["python", "-m", "deploy.health_check"]
CMD ["python", "-m", "gunicorn", "-c", "gunicorn_config.py", "app_production:app"]
