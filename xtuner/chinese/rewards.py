"""Learning from rewards: rollouts, their check, `xtuner new-cfg --method grpo`."""

REWARDS = {
    # help
    "lora where it fits into memory, else qlora; full for all weights. dpo likewise, for pairs of "
    "answers, or one of dpo_lora, dpo_qlora, dpo_full. grpo likewise, for prompts and a --reward": (
        "显存放得下时用 lora，否则用 qlora；full 训练全部参数。dpo 同理，用于成对的回答，"
        "也可指定 dpo_lora、dpo_qlora 或 dpo_full。grpo 同理，用于提示和 --reward"
    ),
    "with --method grpo: FILE.py:FUNCTION, which is called with question, answer and row, or exact, "
    "contains, numeric, boxed": (
        "与 --method grpo 合用：FILE.py:函数名（以问题、回答和数据行调用），或 exact、contains、"
        "numeric、boxed"
    ),
    # new-cfg
    "--reward is for --method grpo: add it, or leave out --reward": (
        "--reward 只用于 --method grpo：请加上它，或去掉 --reward"
    ),
    "--method {method} needs a --reward: FILE.py:FUNCTION, or one of {names}": (
        "--method {method} 需要 --reward：FILE.py:函数名，或 {names} 之一"
    ),
    # rewards
    "{option} {name}: there is no function {function}": "{option} {name}：没有函数 {function}",
    "{option} {name} cannot be loaded: {error}": "{option} {name} 无法加载：{error}",
    "{option} {name}: the function takes {signature}, but is called with (question, answer, row)": (
        "{option} {name}：函数的参数是 {signature}，而调用时传入 (question, answer, row)"
    ),
    "{option} {name}: there is no such reward.{hint} Rewards: {names}, or FILE.py:FUNCTION": (
        "{option} {name}：没有这个奖励。{hint} 奖励有：{names}，或 FILE.py:函数名"
    ),
    "{option} is empty: name a function, such as rewards=['my.py:reward'], or one of {names}": (
        "{option} 为空：请给出函数，如 rewards=['my.py:reward']，或 {names} 之一"
    ),
    "{option} has {value!r:.80}: a reward is a function (question, answer, row), its name FILE.py:function, "
    "one of {names}, or dict(type=Matches, pattern=...)": (
        "{option} 中有 {value!r:.80}：奖励应是函数 (question, answer, row)、其名称 FILE.py:函数名、"
        "{names} 之一，或 dict(type=Matches, pattern=...)"
    ),
    "rollouts.weights has {weights} numbers for {rewards} rewards: give one for each": (
        "rollouts.weights 有 {weights} 个数，而奖励有 {rewards} 个：请一一对应"
    ),
    "{place}: the row has no answer that the reward {name} could compare with": (
        "{place}：该行没有可供奖励 {name} 比较的回答"
    ),
    "{place}: the reward {name} failed for the answer {answer!r:.200}: {kind}: {error}": (
        "{place}：奖励 {name} 在回答 {answer!r:.200} 上出错：{kind}：{error}"
    ),
    "{place}: the reward {name} gave {value!r:.80} for the answer {answer!r:.200}: it must be a number": (
        "{place}：奖励 {name} 对回答 {answer!r:.200} 给出 {value!r:.80}：它必须是数"
    ),
    "Matches: {pattern!r} is no regular expression: {error}": "Matches：{pattern!r} 不是正则表达式：{error}",
    "Length: least is {least} and most {most}: least must be at least 0, and most larger": (
        "Length：least 为 {least}，most 为 {most}：least 至少为 0，most 应更大"
    ),
    # data
    "build_prompt_dataset needs a tokenizer, and a max_length of at least 1: it is {max_length}": (
        "build_prompt_dataset 需要 tokenizer，且 max_length 至少为 1：现在是 {max_length}"
    ),
    "data: %d prompts are left out, empty or longer than max_length = %d": (
        "数据：略去 %d 个提示：它们为空，或超过 max_length = %d"
    ),
    "no prompt has at most max_length = {max_length} tokens, the shortest has {shortest}": (
        "没有提示不超过 max_length = {max_length} 个 token，最短的有 {shortest} 个"
    ),
    "data: %d prompts of at most %d tokens": "数据：%d 个提示，最长 %d 个 token",
    "data: rows are left out:%s": "数据：略去的行：%s",
    # settings
    "rollouts.{name} is {value}, but must be at least {least}": (
        "rollouts.{name} 为 {value}，但至少须为 {least}"
    ),
    "rollouts.temperature is {value}: answers to a prompt must differ, so it must be above 0": (
        "rollouts.temperature 为 {value}：同一提示的回答必须不同，所以它必须大于 0"
    ),
    "rollouts does not go with {name}, because {why}: leave it out": (
        "rollouts 不能与 {name} 合用，因为{why}：请去掉它"
    ),
    "each process samples with the whole model": "每个进程用整个模型采样",
    "each process samples whole answers": "每个进程采样完整的回答",
    "the loss of an update is no measure": "一次更新的 loss 不是衡量标准",
    "validation measures the rewards": "验证衡量的是奖励",
    "rollouts.type is {kind}; use Rollouts of xtuner.engine.batches.rollouts": (
        "rollouts.type 是 {kind}；请用 xtuner.engine.batches.rollouts 的 Rollouts"
    ),
    "train_cfg.max_iters is {max_iters}, but an update takes accumulative_counts = {count} iterations: take "
    "a multiple of it": (
        "train_cfg.max_iters 为 {max_iters}，而一次更新需要 accumulative_counts = {count} 次迭代：请取其倍数"
    ),
    "{name}.dataset is a {kind}, but rollouts need prompts: use build_prompt_dataset": (
        "{name}.dataset 是 {kind}，而 rollouts 需要提示：请用 build_prompt_dataset"
    ),
    "{kind} trains on answers that it samples: give the config rollouts = dict(type=Rollouts, "
    "rewards=[...]), and train_dataloader a build_prompt_dataset": (
        "{kind} 用自己采样的回答训练：请在配置中写 rollouts = dict(type=Rollouts, rewards=[...])，"
        "并让 train_dataloader 使用 build_prompt_dataset"
    ),
    "rollouts is given, but model.type is {kind}, which does not learn from rewards: use GRPO": (
        "给出了 rollouts，但 model.type 是 {kind}，它不从奖励学习：请用 GRPO"
    ),
    "model.ref_llm is not used with beta = 0: give beta, such as 0.04, or leave out ref_llm": (
        "beta = 0 时不使用 model.ref_llm：请给出 beta（如 0.04），或去掉 ref_llm"
    ),
    "model.beta is {model.beta}; it must be a number above 0": (
        "model.beta 为 {model.beta}；它必须是大于 0 的数"
    ),
    "a whole number of at least 2": "至少为 2 的整数",
    "max_length and rollouts.max_new_tokens are {length} together, and the model has {context} positions: "
    "answers to long prompts are cut": (
        "max_length 与 rollouts.max_new_tokens 之和为 {length}，而模型只有 {context} 个位置："
        "长提示的回答会被截断"
    ),
    "answers are sampled while training, so none is known to be the longest: leave out --longest": (
        "回答在训练中采样，因此不知道哪个最长：请去掉 --longest"
    ),
    "--find-lr looks for the rate at which a loss falls, and rewards have none: leave it out": (
        "--find-lr 寻找使 loss 下降的学习率，而奖励没有这样的 loss：请去掉它"
    ),
    "sweep does not sample answers (rollouts): {cure}": "sweep 不采样回答（rollouts）：{cure}",
    "{path} holds no position in this data: set train_dataloader and rollouts as they were": (
        "{path} 中没有此数据的位置：请恢复原来的 train_dataloader 和 rollouts"
    ),
    # log
    "Sampled answer to %s, reward %.4g (%s):\n%s": "对 %s 采样的回答，奖励 %.4g（%s）：\n%s",
    "In the last %d updates all answers to a prompt had equal rewards (the mean is %.4g), so nothing is "
    "learnt: %s": "最近 %d 次更新中，同一提示的回答奖励全部相同（均值 %.4g），因此学不到东西：%s",
    "the answers to a prompt are the same text; raise rollouts.temperature": (
        "同一提示的回答是相同的文本；请提高 rollouts.temperature"
    ),
    "no answer comes to an end; raise rollouts.max_new_tokens": (
        "没有回答自然结束；请提高 rollouts.max_new_tokens"
    ),
    "rewards depend on the prompt and not on the answer; read the sampled answers above, and test the "
    "function with them": "奖励取决于提示而不是回答；请看上面采样的回答，并用它们检验函数",
    "every answer has the same reward. If it is the lowest, the model never does what is rewarded: train it "
    "on examples first, take easier prompts, or add a reward for a part of the way (a form). If it is the "
    "highest, all is learnt": (
        "所有回答的奖励相同。若是最低值，说明模型从未做到被奖励的事：请先用示例训练、换更容易的提示，"
        "或为部分达成（如格式）加一个奖励。若是最高值，则已学会"
    ),
}
