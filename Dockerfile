# The package for an ordinary user, in two images (docs/install.md): cpu, and cuda with vLLM.
# Everything that is kept lies in /work, the home folder: mount a folder of yours there.

FROM python:3.11.13-slim-bookworm AS base
ENV HOME=/work USER=malt PIP_NO_CACHE_DIR=1
RUN useradd --uid 1000 --create-home --home-dir /work malt
WORKDIR /work
ENTRYPOINT ["malt-fast"]
CMD ["--help"]

FROM python:3.11.13-slim-bookworm AS wheel
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
COPY . /src
RUN PIP_CONSTRAINT=/src/constraints.txt pip wheel --no-cache-dir --no-deps -w /wheel /src

# PIP_EXTRA_INDEX_URL may name an index of CPU builds of torch: without their CUDA libraries they are much smaller.
FROM base AS cpu
ARG PIP_EXTRA_INDEX_URL
RUN --mount=from=wheel,source=/wheel,target=/wheel --mount=source=constraints.txt,target=/constraints.txt \
    pip install -c /constraints.txt "$(echo /wheel/*.whl)[serve]"
USER 1000

# vLLM names the versions of torch and its CUDA libraries. Triton compiles with gcc when kernels first run.
FROM base AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
RUN --mount=from=wheel,source=/wheel,target=/wheel pip install "$(echo /wheel/*.whl)[vllm,qlora,serve]"
USER 1000
