# One image for the web server and all workers.
#
#   docker build -t al-backend .                                  with CUDA: NVIDIA's libraries come as wheels
#   docker build -t al-backend --build-arg ACCELERATOR=cpu .      without: some 4 GB smaller
#
# It runs as user 1000, writes below /data and /tmp alone, and so on a read-only root file system.

ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build

ARG ACCELERATOR=cuda
ARG CPU_INDEX=https://download.pytorch.org/whl/cpu

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PATH=/opt/venv/bin:$PATH

WORKDIR /build
RUN python -m venv /opt/venv

# The hashes in requirements.txt are checked; --no-deps because label-studio-ml pins a web stack of 2021. Without CUDA
# torch and torchvision come from PyTorch's own index, both, because torchvision's wheel on PyPI does not load with it.
COPY requirements.txt ./
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
RUN case "$ACCELERATOR" in \
      cuda) pip install --no-deps -r requirements.txt ;; \
      cpu) awk '/^[^ ]/ { keep = !/^(torch|torchvision|triton|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)==/ } keep' requirements.txt > cpu.txt; \
           pip install --no-deps -r cpu.txt; \
           pip install --no-deps --index-url "$CPU_INDEX" \
             "torch==$(sed -n 's/^torch==\([0-9.]*\).*/\1/p' requirements.txt)" \
             "torchvision==$(sed -n 's/^torchvision==\([0-9.]*\).*/\1/p' requirements.txt)" ;; \
      *) echo "ACCELERATOR is '$ACCELERATOR'; use cuda or cpu." >&2; exit 1 ;; \
    esac

COPY pyproject.toml README.md LICENSE ./
COPY al_backend ./al_backend
COPY model ./model
RUN pip install --no-deps . \
    && python -m compileall -q /opt/venv/lib


FROM python:${PYTHON}-slim

# The name is for people; programs are given the number, which needs no list of users.
RUN useradd --uid 1000 --home-dir /data --no-create-home --shell /usr/sbin/nologin backend \
    && install --directory --owner=1000 --group=1000 /data

COPY --from=build /opt/venv /opt/venv

ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/data/home \
    MPLCONFIGDIR=/data/home/matplotlib \
    YOLO_CONFIG_DIR=/tmp/ultralytics \
    MODEL_DIR=/data/models \
    AL_DATA_DIR=/data/backend \
    AL_HOST=0.0.0.0

WORKDIR /data
USER 1000:1000
VOLUME /data
EXPOSE 9090

HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=4 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ.get('PORT', '9090') + '/health', timeout=4)"]

CMD ["al-backend", "up"]
