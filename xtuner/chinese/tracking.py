"""What trackers say: TensorBoard, W&B, SwanLab, MLflow, trackio."""

from __future__ import annotations

TRACKING = {
    "also record the run with tensorboard, wandb, swanlab, mlflow or trackio; several: a,b": (
        "同时用 tensorboard、wandb、swanlab、mlflow 或 trackio 记录本次训练；多个用 a,b"
    ),
    "name of the run there (name of the work dir, and the time)": "其中的实验名（默认为工作目录名加时间）",
    "Tracked by %s: %s": "由 %s 记录：%s",
    "%s is left out of this run": "本次训练不使用 %s",
    "%s failed, and the training goes on: %s: %.300s": "%s 出错，训练继续：%s: %.300s",
    "%s: %d of %d calls failed": "%s：%d 次调用失败，共 %d 次",
    "{place} is {given!r}; it must be a list of names of: {known}": (
        "{place} 为 {given!r}；必须是名称的列表，可选：{known}"
    ),
    "{place}: there is no tracker {name!r}.{hint} Known: {known}": (
        "{place}：没有名为 {name!r} 的记录工具。{hint}已知：{known}"
    ),
    "--tracker and --run-name: with framework = 'huggingface' set training_args.report_to": (
        "--tracker 与 --run-name：framework = 'huggingface' 时请设 training_args.report_to"
    ),
}
