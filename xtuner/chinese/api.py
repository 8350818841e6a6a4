"""Messages of the functions for notebooks."""

API = {
    "{name} cannot be removed from a config: set it to None": "不能从配置中删除 {name}：请把它设为 None",
    "{path} is {value}, which the file of a config cannot name: give a number, a text, a list, a dict, or a "
    "class or function that can be imported": (
        "{path} 为 {value}，配置文件无法写出它：请给出数字、文本、列表、字典，或可以导入的类或函数"
    ),
    "new_config needs the name of a config, or model and data": "new_config 需要配置的名称，或 model 和 data",
    "{key} is for a config that is not there yet: set what it means in {name} itself": (
        "{key} 用于尚不存在的配置：请在 {name} 中设置相应的值"
    ),
    "{name} names its data inside part 3, so --data is not enough.": (
        "{name} 的数据写在第 3 部分中，只给 --data 不够。"
    ),
    "{name} reads {count} sources, so --data is not enough.{hint}": (
        "{name} 读取 {count} 个数据源，只给 --data 不够。{hint}"
    ),
    "there is no method {method!r}.{hint} Methods: {methods}": (
        "没有方法 {method!r}。{hint} 可用方法：{methods}"
    ),
    "this is a part of a config: give the whole one": "这只是配置的一部分：请给出完整的配置",
    "{value} is no config: give a file, a built-in name, or what new_config returns": (
        "{value} 不是配置：请给出文件、内置名称，或 new_config 的返回值"
    ),
    "the run was stopped: {name}": "训练被停止：{name}",
    "{folder} has no checkpoint": "{folder} 中没有检查点",
    "{folder} has no tried rates: train with find_lr=True": (
        "{folder} 中没有试过的学习率：请用 find_lr=True 训练"
    ),
    "{where} is {name} of this notebook or script, which the processes of NPROC_PER_NODE cannot import: "
    "put it in a file and import it from there": (
        "{where} 为此 notebook 或脚本中的 {name}，NPROC_PER_NODE 的进程无法导入：请放到文件中再导入"
    ),
    "the training failed in its processes, for the reason above": "训练在其进程中失败，原因见上文",
    "evaluate has no option {name!r}.{hint}": "evaluate 没有选项 {name!r}。{hint}",
    "chat has no option {name!r}.{hint}": "chat 没有选项 {name!r}。{hint}",
    "NPROC_PER_NODE and NNODES are for xtuner eval: evaluate has one process": (
        "NPROC_PER_NODE 和 NNODES 用于 xtuner eval：evaluate 只有一个进程"
    ),
    "{model} reads no images: name a vision-language model, or add llava": (
        "{model} 不读取图片：请指定视觉语言模型，或加上 llava"
    ),
}
