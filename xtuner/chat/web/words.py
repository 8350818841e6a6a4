"""The words of the pages, in English and Chinese."""

from __future__ import annotations

LANGUAGES = {"English": "en", "中文": "zh"}

WORDS: dict[str, tuple[str, str]] = {
    "language": ("Language", "语言"),
    "chat": ("Chat", "对话"),
    "watch": ("Training", "训练"),
    "settings": ("Settings", "设置"),
    "model": ("Model or adapter", "模型或适配器"),
    "template": ("Prompt template", "对话模板"),
    "as_trained": ("as trained", "与训练时一致"),
    "system": ("System prompt", "系统提示词"),
    "temperature": ("Temperature", "温度"),
    "temperature_help": ("0: always the likeliest token", "为 0 时总是选择概率最高的词元"),
    "top_p": ("Top-p", "Top-p"),
    "top_p_help": ("choose among tokens of this total probability", "在累计概率不超过该值的词元中选择"),
    "max_tokens": ("Longest answer (tokens)", "回答的最大长度（词元）"),
    "new": ("New chat", "新对话"),
    "stop": ("Stop", "停止"),
    "again": ("Answer again", "重新回答"),
    "ask": ("Ask something", "请输入您的问题"),
    "ask_about": ("Ask something, also about images", "请输入您的问题，可附上图片"),
    "no_image": ("The question was not sent: {reason}", "问题未发送：{reason}"),
    "smaller": (
        "{name} was made smaller to be sent: {width} x {height} pixels",
        "{name} 已缩小为 {width} x {height} 像素后发送",
    ),
    "stopped": ("stopped", "已停止"),
    "speed": (
        "{speed:.1f} tokens/s, first after {first:.2f} s",
        "每秒 {speed:.1f} 个词元，首个用时 {first:.2f} 秒",
    ),
    "hello": ("What would you like to know?", "想聊点什么？"),
    "no_server": (
        "This page was started without a model: `xtuner web MODEL` or `xtuner web URL`.",
        "启动时没有指定模型：请使用 `xtuner web MODEL` 或 `xtuner web URL`。",
    ),
    "work_dir": ("Work dir", "工作目录"),
    "run": ("Run", "训练记录"),
    "no_work_dir": ("There is no run in {path}", "{path} 中没有训练记录"),
    "no_runs": (
        "No run found: write the work dir of a training above.",
        "没有找到训练记录：请在上方填写训练的工作目录。",
    ),
    "iter": ("Iteration", "迭代"),
    "loss": ("Loss", "损失"),
    "lr": ("Learning rate", "学习率"),
    "tokens_per_sec": ("Tokens/s", "词元/秒"),
    "memory": ("Memory (MB)", "内存 (MB)"),
    "grad_norm": ("Gradient norm", "梯度范数"),
    "val/loss": ("Validation loss", "验证损失"),
    "time": ("Seconds/iteration", "每次迭代秒数"),
    "finished": ("finished", "已完成"),
    "left": ("{eta} left", "剩余 {eta}"),
    "samples": ("Sampled answers", "采样回答"),
    "sample": ("Question", "问题"),
    "at_iter": ("iteration {iter}", "迭代 {iter}"),
    "no_samples": ("No answers sampled yet.", "还没有采样回答。"),
    "checkpoints": ("Checkpoints", "检查点"),
    "no_checkpoints": ("No checkpoint yet.", "还没有检查点。"),
    "name": ("Name", "名称"),
    "size": ("Size", "大小"),
    "saved": ("Saved", "保存时间"),
    "last": ("Last", "最新"),
}


def say(language: str, key: str, **values: object) -> str:
    """The words for `key` in `language`, "en" or "zh"."""
    text = WORDS[key][1 if language == "zh" else 0]
    return text.format(**values) if values else text
