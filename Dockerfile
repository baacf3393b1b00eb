# `unmask serve` in a container.
#
#   docker build -t unmask .                                                          on a CPU
#   docker build -t unmask --build-arg BASE=nvidia/cuda:12.8.1-runtime-ubuntu24.04 .  on NVIDIA GPUs
#   docker run -p 8000:8000 -e UNMASK_API_KEY=secret -v ~/.cache/huggingface:/models unmask \
#       --model GSAI-ML/LLaDA-8B-Instruct --policy me/policy --block-length 32
#
# TORCH_INDEX is an index of PyTorch's wheels; on a CPU that of CPU builds saves gigabytes.
ARG BASE=python:3.12-slim
FROM ${BASE}

# Bases without Python are Ubuntu's.
RUN command -v python3 && python3 -c "import ensurepip" || \
    (apt-get update && apt-get install -y --no-install-recommends python3 python3-venv && rm -rf /var/lib/apt/lists/*)
RUN python3 -m venv /opt/unmask
ENV PATH=/opt/unmask/bin:$PATH HF_HOME=/models PYTHONUNBUFFERED=1

ARG TORCH_INDEX
RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip install --no-cache-dir '.[serve]'

RUN useradd --create-home --uid 10001 unmask && mkdir /models && chown unmask /models
USER unmask
WORKDIR /home/unmask
VOLUME /models
EXPOSE 8000
HEALTHCHECK --start-period=10m CMD python3 -c "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health')"
ENTRYPOINT ["unmask", "serve", "--host", "0.0.0.0"]
