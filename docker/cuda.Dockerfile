# Training on NVIDIA GPUs.   docker build -f docker/cuda.Dockerfile -t mftcoder:cuda .
# CUDA of the version that PyPI's torch of constraints.txt is built with. devel, because DeepSpeed compiles with nvcc when a
# run offloads; without offloading, RUNTIME=nvidia/cuda:13.0.2-base-ubuntu24.04 makes a smaller image.
ARG BASE=nvidia/cuda:13.0.2-devel-ubuntu24.04
ARG RUNTIME=${BASE}

FROM ${BASE} AS packages
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PATH=/opt/venv/bin:$PATH DEBIAN_FRONTEND=noninteractive
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY pyproject.toml constraints.txt docker/cuda-constraints.txt ./
RUN python3 -m venv /opt/venv
ARG EXTRAS="construct serve"
RUN python -c 'import sys, tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
        print(*p["dependencies"], *sum((p["optional-dependencies"][e] for e in sys.argv[1:]), []), sep="\n")' \
        ${EXTRAS} > requirements.txt \
    && PIP_CONSTRAINT="constraints.txt cuda-constraints.txt" pip install -r requirements.txt
# Not needed: packed rows go through torch's own kernel. FLASH_ATTN=2.8.3, for instance, compiles that version (an hour or so).
ARG FLASH_ATTN=""
ARG MAX_JOBS=4
# hadolint ignore=DL3013
RUN if [ -n "$FLASH_ATTN" ]; then \
        PIP_CONSTRAINT=constraints.txt pip install wheel \
        && PIP_CONSTRAINT=constraints.txt MAX_JOBS="$MAX_JOBS" pip install --no-build-isolation "flash-attn==$FLASH_ATTN"; \
    fi

FROM ${RUNTIME}
# Triton and DeepSpeed compile when they are first used: g++ and Python.h stay.
# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends g++ python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
ARG UID=1000
# Ubuntu's image has a user 1000 of its own.
RUN if id ubuntu; then userdel ubuntu; fi \
    && useradd --uid "$UID" --create-home --shell /bin/bash mftcoder \
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
