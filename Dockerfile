# XTuner with its server and web page:
#   docker build --tag xtuner .                                  for a CPU
#   docker build --tag xtuner:cuda --build-arg DEVICE=cuda .     for an NVIDIA GPU
#   docker run --rm xtuner env                                   any command of xtuner
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS wheel
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY xtuner ./xtuner
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /dist .

FROM python:${PYTHON}-slim
# torch.compile and Triton call a compiler.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
COPY constraints.txt /opt/xtuner/
# PyPI's torch brings CUDA along, several GB; PyTorch's own index has one without.
ARG DEVICE=cpu
RUN torch="$(sed -n 's/^torch==//p' /opt/xtuner/constraints.txt)" \
    && case "$DEVICE" in \
    cpu) pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu "torch==${torch}+cpu" ;; \
    cuda) pip install --no-cache-dir "torch==${torch}" ;; \
    *) echo "DEVICE is ${DEVICE}: cpu or cuda" >&2; exit 1 ;; \
    esac
COPY --from=wheel /dist/ /opt/xtuner/
ARG EXTRAS=serve,structured,web,track
RUN wheel="$(ls /opt/xtuner/xtuner-*.whl)" \
    && pip install --no-cache-dir --constraint /opt/xtuner/constraints.txt "${wheel}[${EXTRAS}]"
# /work is the folder that is mounted, /cache what is downloaded and compiled. Both serve any user:
# `--user "$(id -u):$(id -g)"` writes your files as yours. torch asks for a name, which such a user lacks.
RUN useradd --home-dir /cache --uid 1000 xtuner && install --directory --mode=1777 /work /cache
ENV HOME=/cache USER=xtuner
USER 1000
WORKDIR /work
ENTRYPOINT ["xtuner"]
CMD ["--help"]
