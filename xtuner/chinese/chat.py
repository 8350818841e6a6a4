"""What the dialogue in the terminal, the server and the web page say, in Chinese, by the English."""

from __future__ import annotations

DIALOGUE = {
    "\ndouble enter to end input (EXIT: exit chat, RESET: reset history) >>> ": (
        "\n按两次回车结束输入（EXIT：退出对话，RESET：清空历史）>>> "
    ),
    "{count} tokens, {speed:.1f} tokens/s, the first after {seconds:.2f} s": (
        "{count} 个 token，每秒 {speed:.1f} 个，首个用时 {seconds:.2f} 秒"
    ),
    ", stopped": "，已停止",
    "The answer was cut after %d tokens: see --max-new-tokens": (
        "回答在第 %d 个 token 后被截断：见 --max-new-tokens"
    ),
    "its images wait for the next question: /undo removes them": "其图像留给下一个问题：/undo 可移除",
    "%d control characters were left out of the input": "从输入中去掉了 %d 个控制字符",
    "Inputs are not kept for the next dialogue: %s": "输入不会保留到下次对话：%s",
    "Remove the memory of the %d oldest responses, since it exceeds the length limitation %d.": (
        "忘记最早的 %d 轮对话，因为超出了长度上限 %d。"
    ),
    "this input has {count} tokens; the context of {context} leaves room for {limit}": (
        "此输入有 {count} 个 token；{context} 的上下文还能容纳 {limit} 个"
    ),
    "Scores of %d answers: %s": "%d 个回答的得分：%s",
    " (shown)": "（显示此回答）",
    "Prompt template: %s, with which the model was trained": "对话模板：%s，与训练时相同",
    "the model was trained with the prompt template %s; with %s its answers may be poor": (
        "模型训练时用的对话模板是 %s；改用 %s，回答可能不好"
    ),
    "the prompt template in %s cannot be read: %s": "无法读取 %s 中的对话模板：%s",
    "of its own": "自定义的模板",
    "{path} exists and is not a dialogue: name another file": "{path} 已存在，且不是对话：请换一个文件名",
    '{path} is no dialogue: it needs [{{"conversation": [{{"input": "...", "output": "..."}}]}}]': (
        '{path} 不是对话：应为 [{{"conversation": [{{"input": "...", "output": "..."}}]}}]'
    ),
    "{path} cannot be written: {error}": "无法写入 {path}：{error}",
    "there is no file {path}": "没有文件 {path}",
    "%s is about images, which this model does not read": "%s 涉及图像，而此模型不读取图像",
}

COMMANDS = {
    "There is no command {name}.{hint} /help shows all of them.": (
        "没有命令 {name}。{hint} /help 列出全部命令。"
    ),
    "Error: {error}": "错误：{error}",
    "the same as /exit and /reset": "同 /exit 和 /reset",
    "show this": "显示本说明",
    "write the dialogue to FILE as training data": "把对话作为训练数据写入 FILE",
    "continue the dialogue in FILE": "继续 FILE 中的对话",
    "show the image in FILE with the next question; repeatable": "下一个问题附上 FILE 中的图像；可重复",
    "show the system text, or replace it by TEXT": "显示系统提示词，或替换为 TEXT",
    "forget the last question and its answer, or the images of the next one": (
        "忘记上一个问题及其回答，或移除下一个问题的图像"
    ),
    "show the adapter, or switch to another or none": "显示适配器，或换成另一个，或不用适配器",
    "forget all questions and answers": "忘记全部问题和回答",
    "end the dialogue": "结束对话",
    "/save needs the name of a file": "/save 后面需要文件名",
    "/load needs the name of a file": "/load 后面需要文件名",
    "Log: {count} turns saved to {path}": "提示：已把 {count} 轮对话存入 {path}",
    "Log: {count} turns loaded": "提示：已载入 {count} 轮对话",
    "Log: the system text is: {text}": "提示：系统提示词为：{text}",
    "Log: there is no system text": "提示：没有系统提示词",
    "Log: the next question is about {names}": "提示：下一个问题涉及 {names}",
    "no new image": "（没有新的图像）",
    "Log: The images of the next question have been removed!": "提示：已移除下一个问题的图像！",
    "Log: The last turn has been removed!": "提示：已撤销上一轮对话！",
    "Log: there is no turn to undo": "提示：没有可撤销的对话",
    "Log: History responses have been removed!": "提示：已清空历史对话！",
    "Log: Exit!": "提示：退出！",
    "Log: the adapter is: {adapter}": "提示：适配器为：{adapter}",
    "none": "无",
    "this model reads no images": "此模型不读取图像",
    "--best-of scores answers to texts: start without it to show images": (
        "--best-of 只给针对文本的回答打分：要使用图像，请不带它重新启动"
    ),
    "this adapter was trained with the prompt template %s, but this dialogue has another: its answers may "
    "be poor": "此适配器训练时用的对话模板是 %s，而本次对话用的是另一个：回答可能不好",
}

SETTINGS = {
    "--{name} is {value}: write {cure}.": "--{name} 为 {value}：应为{cure}。",
    "1 or more": "不小于 1 的数",
    "0 or more": "不小于 0 的数",
    "above 0": "大于 0 的数",
    "above 0 and at most 1": "大于 0 且不大于 1 的数",
    "0 (all) or more": " 0（全部）或更大的数",
    "0 (always the likeliest) or more": " 0（总选概率最大的）或更大的数",
    "0 (any that is free) to 65535": " 0（任一空闲端口）到 65535",
    "--bits is {bits}: write 4, 8 or None.": "--bits 为 {bits}：应为 4、8 或 None。",
    "{given} is for the parts of a LLaVA model: add --llava FOLDER.": (
        "{given} 用于 LLaVA 模型的部件：请加上 --llava FOLDER。"
    ),
    "--tools {name} is for agents: add --lagent.": "--tools {name} 用于智能体：请加上 --lagent。",
    "--best-of is {count}: write 1 or more.": "--best-of 为 {count}：应不小于 1。",
    "--best-of {count} needs a reward model that chooses: add --reward MODEL.": (
        "--best-of {count} 需要奖励模型来选择：请加上 --reward MODEL。"
    ),
    "--best-of {count} with --temperature 0: all answers are the same; raise it, to 0.8 say.": (
        "--best-of {count} 与 --temperature 0：所有回答都相同；请调高温度，如 0.8。"
    ),
    "--best-of scores whole answers to texts: leave {option} out.": (
        "--best-of 给针对文本的完整回答打分：请去掉 {option}。"
    ),
    "--reward {reward} chooses among answers: add --best-of N.": (
        "--reward {reward} 在多个回答中选择：请加上 --best-of N。"
    ),
    "--offload-folder has no effect: on %s all layers stay in memory": (
        "--offload-folder 不起作用：在 %s 上所有层都留在内存中"
    ),
    "--image {image}: the model cannot read images, for the reason above": (
        "--image {image}：模型无法读取图像，原因见上文"
    ),
    "--image {image}: the family of {model} reads no images here; name a vision-language model, or add "
    "--llava FOLDER with a projector and --visual-encoder CLIP": (
        "--image {image}：{model} 所属的系列在这里不读取图像；请指定视觉语言模型，"
        "或加上 --llava FOLDER（含 projector）和 --visual-encoder CLIP"
    ),
}

AGENTS = {
    "Tools: %s": "工具：%s",
    "Tool %s: %s": "工具 %s：%s",
    "the tool %s failed": "工具 %s 失败",
    "--tools: there are two tools named {name!r}": "--tools：有两个名为 {name!r} 的工具",
    "--tools {path}: no such file": "--tools {path}：没有这个文件",
    "--tools {path}: {error}": "--tools {path}：{error}",
    "--tools {path}: {kind}: {error}": "--tools {path}：{kind}: {error}",
    '--tools {path} names no MCP servers: write {{"mcpServers": {{"NAME": {{"command": "..."}}}}}}': (
        '--tools {path} 没有列出 MCP 服务器：请写 {{"mcpServers": {{"NAME": {{"command": "..."}}}}}}'
    ),
    "--tools {path}: the servers did not start within {seconds:g} s": (
        "--tools {path}：服务器未能在 {seconds:g} 秒内启动"
    ),
    "--tools {path}: MCP servers need the package mcp: {command}": (
        "--tools {path}：MCP 服务器需要 mcp 包：{command}"
    ),
    "MCP servers ended": "MCP 服务器已结束",
    "the MCP server {name!r} did not start: {last}": "MCP 服务器 {name!r} 未能启动：{last}",
    "--tools {path}: give a Python file (.py) or a list of MCP servers (.json)": (
        "--tools {path}：请给出 Python 文件（.py）或 MCP 服务器的列表（.json）"
    ),
    "--tools {path} defines no public function": "--tools {path} 没有定义公开的函数",
    "{place}: {name} has no docstring; its first paragraph tells the model what it does": (
        "{place}：{name} 没有文档字符串；其第一段告诉模型它做什么"
    ),
    "{place}: {name} is async; write a plain function": "{place}：{name} 是异步函数；请写成普通函数",
    "{place}: {name} takes {parameter}; a model can only give named arguments": (
        "{place}：{name} 接受 {parameter}；而模型只能按名称给出参数"
    ),
    "--with-plugins needs a model tuned on MOSS's dialogues: add --prompt-template moss_sft if it is one, or "
    "--lagent for any other": (
        "--with-plugins 需要在 MOSS 对话上微调的模型：若是，请加上 --prompt-template moss_sft；"
        "其他模型请用 --lagent"
    ),
    "search needs a key of https://serper.dev: set the environment variable {name}, or omit search": (
        "search 需要 https://serper.dev 的密钥：请设置环境变量 {name}，或去掉 search"
    ),
    "The agent has no web search: set the environment variable %s": "智能体没有网络搜索：请设置环境变量 %s",
    "The agent ended without a final answer: its last words are the answer": (
        "智能体结束时没有给出最终答案：以其最后的话作为回答"
    ),
}

SERVER = {
    "Serving %s at http://%s:%d/v1 (Ctrl-C ends it)": "正在提供 %s，地址 http://%s:%d/v1（按 Ctrl-C 结束）",
    "Load adapter %s from %s": "加载适配器 %s，来自 %s",
    "whoever reaches %s can use this server: --api-key asks them for a key": (
        "能访问 %s 的人都能使用此服务器：加上 --api-key 则要求密钥"
    ),
    "a request could not be informed that it failed: %s": "无法通知一个请求它已失败：%s",
    "an answer failed: %s: %s": "一个回答失败：%s: %s",
    "--image-folder {folder}: there is no such folder.": "--image-folder {folder}：没有这个目录。",
    "--adapter {adapter} and --llava {llava}: name one of them.": (
        "--adapter {adapter} 与 --llava {llava}：只能指定其中一个。"
    ),
    "--adapter {text!r}: write NAME=FOLDER, or FOLDER.": "--adapter {text!r}：请写 NAME=FOLDER 或 FOLDER。",
    "--adapter {text!r}: the name {name!r} is taken; give it another one: NAME={path}": (
        "--adapter {text!r}：名称 {name!r} 已被占用；请另起名称：NAME={path}"
    ),
    "--allowed-origins {origin!r}: write pages as browsers name them, http://host:port without a path, with "
    "commas between, or * for all": (
        "--allowed-origins {origin!r}：请按浏览器的写法给出网页，http://host:port，不带路径，以逗号分隔，"
        "或用 * 表示全部"
    ),
    "--host {host}: there is no such address: {error}": "--host {host}：没有这个地址：{error}",
    "{host}:{port} cannot be listened at: {error}": "无法监听 {host}:{port}：{error}",
    "port {port} of {host} is in use by another program: stop that one, or choose another --port": (
        "{host} 的端口 {port} 正被另一个程序使用：请停止那个程序，或另选 --port"
    ),
    "xtuner serve needs the package {name}: {command}": "xtuner serve 需要 {name} 包：{command}",
    "xtuner web needs the package streamlit: {command}": "xtuner web 需要 streamlit 包：{command}",
    "{option} needs a model that this command serves: give its folder": (
        "{option} 需要由此命令提供服务的模型：请给出其目录"
    ),
    "--work-dir {work_dir}: no such folder": "--work-dir {work_dir}：没有这个目录",
    "the server {url} cannot be reached: {reason}": "连不上服务器 {url}：{reason}",
    "the server answered {code} {reason}": "服务器的应答为 {code} {reason}",
}

CHAT = {**DIALOGUE, **COMMANDS, **SETTINGS, **AGENTS, **SERVER}
