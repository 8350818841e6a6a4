"""`xtuner score MODEL DATA`: the scores of a reward model or classifier for a file of texts."""

from __future__ import annotations

import argparse

from xtuner.errors import ConfigError
from xtuner.language import translate
from xtuner.log import start_console
from xtuner.model_folder import state_of, with_base
from xtuner.paths import check_adapter_path
from xtuner.tools.arguments.addresses import fetch_adapters, find_model
from xtuner.tools.arguments.parser import Parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The arguments of `xtuner score`."""
    parser = Parser(
        "xtuner score", description="Score each row of a file with a reward model or a classifier."
    )
    add = parser.add_argument
    add("model_name_or_path", help="the model: a folder or a name on the hub")
    add("data", help="the rows: a file, a folder or a name on the hub, in any format that training reads")
    add("--adapter", help="the LoRA adapter to put on the model")
    add("--out", default="scores.jsonl", metavar="FILE", help="the file to write (scores.jsonl)")
    add("--batch-size", type=int, default=8, help="texts that are read at a time (8)")
    add("--max-length", type=int, help="tokens of a text that are read (as many as the model reads)")
    add("--bits", type=int, choices=[4, 8], help="load the model quantised to so many bits")
    add("--torch-dtype", choices=["fp16", "bf16", "fp32", "auto"], default="auto", help="precision (auto)")
    add("--trust-remote-code", action="store_true", help="run Python files that the model brings along")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Score; returns 0 when the file is complete."""
    args = parse_args(argv)
    for name in ("batch_size", "max_length"):
        if (value := getattr(args, name)) is not None and value < 1:
            flag = name.replace("_", "-")
            raise ConfigError(translate("--{flag} is {value}: write 1 or more", flag=flag, value=value))
    start_console()
    # Paths are checked before torch is imported.
    find_model(args, "model_name_or_path")
    fetch_adapters(args)
    if args.adapter is not None:
        check_adapter_path(args.adapter)
    from xtuner.scoring.file import score_file
    from xtuner.scoring.scorer import load_scorer

    model, adapter = args.model_name_or_path, args.adapter
    if adapter is None:
        model, adapter = with_base(model)
    scorer = load_scorer(
        model,
        adapter=adapter,
        dtype=args.torch_dtype,
        bits=args.bits,
        max_length=args.max_length,
        trust_remote_code=args.trust_remote_code,
    )
    folders = [folder for folder in (model, adapter) if folder is not None]
    key = [args.torch_dtype, args.bits, *map(state_of, folders)]
    summary = score_file(scorer, args.data, args.out, batch_size=args.batch_size, key=key)
    print("\n".join([*summary.lines(), translate("The results are in {out}", out=args.out)]))
    return 0
