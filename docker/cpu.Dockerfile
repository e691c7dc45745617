# Everything but GPUs: preparing data, trying things out, exports.   docker build -f docker/cpu.Dockerfile -t mftcoder:cpu .
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS packages
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PATH=/opt/venv/bin:$PATH
WORKDIR /build
COPY pyproject.toml constraints.txt ./
RUN python3 -m venv /opt/venv
# Alone, or pip would take the CUDA build of the same version; its dependencies come from PyPI in the next step.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# hadolint ignore=DL3013
RUN PIP_CONSTRAINT=constraints.txt pip install --no-deps --index-url "$TORCH_INDEX" torch
ARG EXTRAS="construct serve"
RUN python -c 'import sys, tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
        print(*p["dependencies"], *sum((p["optional-dependencies"][e] for e in sys.argv[1:]), []), sep="\n")' \
        ${EXTRAS} > requirements.txt \
    && PIP_CONSTRAINT=constraints.txt pip install -r requirements.txt

FROM ${BASE}
# DeepSpeed compiles its parts for the very processor when they are first used. The base image has Python.h.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
ARG UID=1000
RUN useradd --uid "$UID" --create-home --shell /bin/bash mftcoder \
    && install -d -o mftcoder /home/mftcoder/.cache /home/mftcoder/.cache/huggingface
COPY --from=packages /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1
WORKDIR /mftcoder
COPY . .
RUN pip install --no-cache-dir --disable-pip-version-check --no-deps --editable . \
    && python -m compileall -q mftcoder \
    && install -d -o mftcoder tasks shards runs exports
# A number, so that Kubernetes sees that it is not root.
USER ${UID}
HEALTHCHECK --interval=5m --timeout=60s CMD ["python", "-c", "import mftcoder"]
ENTRYPOINT ["mftcoder"]
CMD ["--help"]
