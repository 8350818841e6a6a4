# XTuner with its server and web page:
#   docker build --tag xtuner .                                  for a CPU
#   docker build --tag xtuner:cuda --build-arg DEVICE=cuda .     for an NVIDIA GPU
#   docker run --rm xtuner env                                   any command of xtuner
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS wheel
# A package of this name without code: what it needs is installed before the code, which changes more often.
WORKDIR /needs
COPY pyproject.toml ./
RUN mkdir xtuner && echo '__version__ = "0"' > xtuner/__init__.py && touch README.md LICENSE \
    && pip wheel --no-cache-dir --no-deps --wheel-dir /wheels/needs .
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY xtuner ./xtuner
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels/xtuner .

FROM python:${PYTHON}-slim
# torch.compile and Triton call a compiler. A first process that ends children and passes signals on is tini.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ tini \
    && rm -rf /var/lib/apt/lists/*
COPY constraints.txt /opt/xtuner/
# PyPI's torch brings CUDA along, several GB; PyTorch's own index has one without.
ARG DEVICE=cpu
RUN torch="$(sed -n 's/^torch==//p' /opt/xtuner/constraints.txt)" \
    && case "$DEVICE" in \
    cpu) set -- --extra-index-url https://download.pytorch.org/whl/cpu "torch==${torch}+cpu" ;; \
    cuda) set -- "torch==${torch}" ;; \
    *) echo "DEVICE is ${DEVICE}: cpu or cuda" >&2; exit 1 ;; \
    esac \
    && pip install --no-cache-dir --constraint /opt/xtuner/constraints.txt "$@"
COPY --from=wheel /wheels/needs/ /opt/xtuner/needs/
ARG EXTRAS=serve,structured,web,track
RUN needs="$(ls /opt/xtuner/needs/*.whl)" \
    && pip install --no-cache-dir --constraint /opt/xtuner/constraints.txt "${needs}[${EXTRAS}]" \
    && pip uninstall --yes xtuner
COPY --from=wheel /wheels/xtuner/ /opt/xtuner/
RUN pip install --no-cache-dir --no-deps /opt/xtuner/*.whl && pip check
# /work is the folder that is mounted, /cache what is downloaded and compiled. Both serve any user:
# `--user "$(id -u):$(id -g)"` writes your files as yours. torch asks for a name, which such a user lacks.
RUN useradd --home-dir /cache --uid 1000 xtuner && install --directory --mode=1777 /work /cache
ENV HOME=/cache USER=xtuner
USER 1000
WORKDIR /work
ENTRYPOINT ["tini", "--", "xtuner"]
CMD ["--help"]
