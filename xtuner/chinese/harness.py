"""Tasks of lm-evaluation-harness: `xtuner eval --harness`."""

HARNESS = {
    # help
    "files or folders of questions; kinds: cmmlu, ceval, hellaswag, arc, mmlu, choices, answers, code, "
    "perplexity (found by the fields of the rows); with --harness names of its tasks": (
        "题目的文件或目录；类型：cmmlu、ceval、hellaswag、arc、mmlu、choices、answers、code、perplexity"
        "（由数据的字段判断）；用 --harness 时为其任务名"
    ),
    "the tasks are those of EleutherAI's lm-evaluation-harness: arc_easy mmlu, ...": (
        "任务取自 EleutherAI 的 lm-evaluation-harness：arc_easy mmlu 等"
    ),
    "with --harness: a folder of own tasks in its YAML": "与 --harness 合用：自己的任务（YAML）所在目录",
    "with --harness: its prompts are messages in the tokenizer's chat template": (
        "与 --harness 合用：提示词套用分词器的对话模板"
    ),
    # mistakes
    "{flag} is for --harness: add it, or leave {flag} out": (
        "{flag} 只用于 --harness：请加上它，或去掉 {flag}"
    ),
    "{flag} has no effect with --harness, whose tasks say how they are asked: leave it out": (
        "{flag} 对 --harness 无作用，提问方式由其任务决定：请去掉"
    ),
    "--harness asks a model that is loaded here: lm-eval itself asks one at an address": (
        "--harness 评测在本机加载的模型；地址上的模型可直接用 lm-eval 评测"
    ),
    "--harness needs the package lm-eval: {command}": "--harness 需要 lm-eval 包：{command}",
    "--include-path {path}: there is no such folder": "--include-path {path}：没有这个目录",
    "--tasks {name}: lm-eval has no such task.{hint} Its names: lm-eval ls tasks; a file or, by "
    "--include-path, a folder of own tasks in YAML": (
        "--tasks {name}：lm-eval 没有这个任务。{hint} 任务名见 lm-eval ls tasks；也可以是 YAML 文件，"
        "或用 --include-path 给出自己任务的目录"
    ),
    "lm-eval cannot load {names}: {kind}: {error}": "lm-eval 无法加载 {names}：{kind}：{error}",
    "{name} runs programs that the model writes, without a sandbox: measure code by --tasks humaneval.jsonl "
    "without --harness": (
        "{name} 会在没有沙箱的情况下运行模型写的程序：请不用 --harness，而用 --tasks humaneval.jsonl 评测代码"
    ),
    "{name} shows images, which --harness cannot": "{name} 含有图像，--harness 不支持",
    "--apply-chat-template: the tokenizer of the model has no chat template: leave it out": (
        "--apply-chat-template：模型的分词器没有对话模板：请去掉"
    ),
    "{task} sets {name} of generation_kwargs to {value}, which answers here cannot have": (
        "{task} 把 generation_kwargs 的 {name} 设为 {value}，这里生成回答时不支持"
    ),
    "{task} asks for answers of {count} tokens, which leave no room for a prompt in the model's context of "
    "{context}: set max_gen_toks of the task to less": (
        "{task} 要求 {count} 个 token 的回答，模型 {context} 的上下文放不下提示词：请减小任务的 max_gen_toks"
    ),
    "{count:,} answers were cut at the length that their task sets, or of the context": (
        "{count:,} 个回答在任务设定的长度或上下文处截断"
    ),
    # log
    "--shots %d: %s says that it has no examples, which is kept": "--shots %d：%s 规定没有示例，保持不变",
    "%d requests of the tasks are answered already, the run continues after them": (
        "任务中的 %d 个请求已有回答，从其后继续"
    ),
    "%d texts are longer than the model's context of %d tokens: they count as never written": (
        "%d 段文本超过模型 %d 个 token 的上下文：视为概率为零"
    ),
    "%d prompts are longer than the model's context of %d tokens: their beginning was cut": (
        "%d 个提示词超过模型 %d 个 token 的上下文：开头已截去"
    ),
}
