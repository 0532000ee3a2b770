# CPU:  docker build -t tbn_bench .
# GPU:  docker build -t tbn_bench --build-arg BASE=nvidia/cuda:13.0.2-cudnn-devel-ubuntu24.04 .   then: docker run --gpus all tbn_bench make gpu
ARG BASE=python:3.12-slim-bookworm
FROM ${BASE}
RUN apt-get update && apt-get install -y --no-install-recommends make git g++ python3 python3-venv python3-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /tbn_bench
COPY . .
RUN make locked
ENV PATH="/tbn_bench/.venv/bin:${PATH}"
RUN make test
