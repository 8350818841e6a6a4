"""Programs that a model writes, and their tests."""

CODE = {
    # help
    "answers to each question for code (1)": "每道编程题的回答数（1）",
    "code is in the answer of a model with a prompt template, or continues the text of the question "
    "(auto: as the model was trained)": (
        "代码取自有对话模板的模型的回答（answer），或由模型续写题目得到（continuation）；auto：按模型的训练方式"
    ),
    "time of a program and its tests (10)": "程序及其测试的时间上限，秒（10）",
    "memory of a program (1024)": "程序的内存上限，MiB（1024）",
    # questions
    "the row has no tests of a program": "该行没有程序的测试",
    "the row has no field {name}": "该行没有字段 {name}",
    "the field 'tests' is empty": "字段 'tests' 为空",
    "the field {name!r} is no text: {value!r:.80}": "字段 {name!r} 不是文本：{value!r:.80}",
    "the field {name!r} is neither text nor a list of texts: {value!r:.80}": (
        "字段 {name!r} 既不是文本，也不是文本的列表：{value!r:.80}"
    ),
    "--samples {samples} with --temperature 0: all answers are the same; raise it, to 0.8 say": (
        "--samples {samples} 与 --temperature 0：所有回答都相同；请调高温度，如 0.8"
    ),
    "--samples {samples}: only questions for code are answered several times, and there are none": (
        "--samples {samples}：只有编程题会多次回答，而这里没有编程题"
    ),
    "the model answers questions for code (--code-from continuation: it continues their text)": (
        "模型回答编程题（--code-from continuation：改为续写题目）"
    ),
    "the model continues the text of questions for code (--code-from answer: it answers them)": (
        "模型续写编程题（--code-from answer：改为回答题目）"
    ),
    # sandbox
    "programs run in a sandbox made by %s": "程序在沙箱中运行，沙箱由 %s 建立",
    "the sandbox could not be started: {reason}": "沙箱无法启动：{reason}",
    "it needs Linux": "需要 Linux",
    "it is not installed": "未安装",
    "programs that a model writes run in a sandbox alone, and none can be made here ({reasons}): install "
    "bubblewrap, or allow user namespaces (sysctl user.max_user_namespaces, "
    "kernel.apparmor_restrict_unprivileged_userns=0; in a container, start it with --security-opt "
    "seccomp=unconfined --security-opt apparmor=unconfined --cap-add SYS_ADMIN)": (
        "模型写的程序只在沙箱中运行，而这里无法建立沙箱（{reasons}）：请安装 bubblewrap，或允许用户命名空间"
        "（sysctl user.max_user_namespaces、kernel.apparmor_restrict_unprivileged_userns=0；容器启动时加 "
        "--security-opt seccomp=unconfined --security-opt apparmor=unconfined --cap-add SYS_ADMIN）"
    ),
    # results
    ", {count} answers to each": "，每题 {count} 个回答",
    "the tests pass": "通过测试",
    "a test fails, or the program does not run": "测试未通过，或程序无法运行",
    "the program ended before its tests had run": "程序在测试运行前结束",
    "the program took too long": "程序运行时间过长",
    "the program took too much memory": "程序占用内存过多",
    "the program wrote too much": "程序输出过多",
}
