"""Hubs and other addresses: pushing a folder, models of buckets."""

from __future__ import annotations

HUB = {
    "send a folder to Hugging Face or ModelScope": "把文件夹发送到 Hugging Face 或 ModelScope",
    "Send a folder of a model or an adapter to Hugging Face or ModelScope, private by default. The "
    "token is that of `hf auth login` or HF_TOKEN (ModelScope: MODELSCOPE_API_TOKEN).": (
        "把模型或适配器文件夹发送到 Hugging Face 或 ModelScope，默认私有。令牌取自 "
        "`hf auth login` 或 HF_TOKEN（ModelScope 为 MODELSCOPE_API_TOKEN）。"
    ),
    "the folder, as xtuner convert writes it": "xtuner convert 写出的文件夹",
    "its name on the hub: OWNER/NAME, or NAME under your own": "仓库名：OWNER/NAME，或自己名下的 NAME",
    "to ModelScope instead of Hugging Face": "发送到 ModelScope，而不是 Hugging Face",
    "a new repository is public; one that is there stays as it is": "新仓库为公开；已有的仓库不变",
    "the branch, on Hugging Face made if it is not there (main)": (
        "分支，在 Hugging Face 上不存在则创建（main）"
    ),
    "the message of the commit": "提交说明",
    "files to leave out: *.gguf": "不发送的文件：*.gguf",
    "files to send although they hold a training's state or what looks like a key": (
        "仍要发送的文件，即使含训练状态或疑似密钥"
    ),
    "show what would be sent, and send nothing": "只显示将发送的文件，不发送",
    "README.md was written: {path}": "已写出 README.md：{path}",
    "{count} files, {size:,} bytes ({left_out} left out)": (
        "{count} 个文件，{size:,} 字节（略去 {left_out} 个）"
    ),
    "Sent: {address}": "已发送：{address}",
    "credentials, by its name": "从文件名看是凭据",
    "state of a training": "训练状态",
    "line {number} has a key or a password": "第 {number} 行有密钥或密码",
    "{folder} is not sent: {found}{more}. Leave them out with --exclude NAME, or send them with --allow "
    "NAME": ("{folder} 未发送：{found}{more}。用 --exclude NAME 略去，或用 --allow NAME 发送"),
    "; and {count} more": "；另有 {count} 个",
    "{folder} has no files to send": "{folder} 没有可发送的文件",
    "{folder} is no folder of a model: make one of a checkpoint with xtuner convert pth_to_hf": (
        "{folder} 不是模型文件夹：请用 xtuner convert pth_to_hf 由检查点生成"
    ),
    "nobody is logged in to the hub: hf auth login, or set HF_TOKEN": (
        "未登录 hub：请运行 hf auth login，或设置 HF_TOKEN"
    ),
    "the hub at {address}": "位于 {address} 的 hub",
    "XTUNER_USE_MODELSCOPE needs the package modelscope: {command}": (
        "XTUNER_USE_MODELSCOPE 需要 modelscope 包：{command}"
    ),
    "there are no files": "没有文件",
    "waiting for %s": "等待 %s",
    "downloading %s: %d files, %s bytes": "正在下载 %s：%d 个文件，%s 字节",
    "{address} has {total:,} bytes, and {place} has space for {free:,}: set XTUNER_CACHE elsewhere": (
        "{address} 有 {total:,} 字节，而 {place} 只剩 {free:,} 字节：请把 XTUNER_CACHE 设为别的文件夹"
    ),
    "{address} has {got:,} bytes instead of {size:,}: the download was cut off": (
        "{address} 有 {got:,} 字节，应为 {size:,}：下载中断"
    ),
    "{repo} has no branch {branch}, and ModelScope's client makes none: make it on its page": (
        "{repo} 没有分支 {branch}，而 ModelScope 的客户端不会创建分支：请在其网页上创建"
    ),
    "--modelscope needs the package modelscope: {command}": "--modelscope 需要 modelscope 包：{command}",
    "{where} did not take it: {reason:.400} (the same command goes on with what is missing)": (
        "{where} 未接收：{reason:.400}（再次运行同一命令将补发缺少的部分）"
    ),
}
