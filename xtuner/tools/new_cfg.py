"""`xtuner new-cfg`: a config for your own model folder and data file, ready to train."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from xtuner.api.configs import propose
from xtuner.errors import ConfigError
from xtuner.language import translate
from xtuner.proposal.methods import METHODS
from xtuner.tools.arguments.config import write_new
from xtuner.tools.arguments.parser import Parser, add_lang


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser("xtuner new-cfg", description=__doc__)
    parser.add_argument("--model", required=True, help="folder of the model")
    parser.add_argument("--data", required=True, help="file of rows: .json, .jsonl, .csv, .xlsx, ...")
    parser.add_argument(
        "--method",
        choices=METHODS,
        metavar="METHOD",
        help="lora where it fits into memory, else qlora; full for all weights. dpo likewise, for pairs of "
        "answers, or one of dpo_lora, dpo_qlora, dpo_full. grpo likewise, for prompts and a --reward",
    )
    parser.add_argument(
        "--reward",
        nargs="+",
        default=[],
        metavar="REWARD",
        help="with --method grpo: FILE.py:FUNCTION, which is called with question, answer and row, or exact, "
        "contains, numeric, boxed",
    )
    parser.add_argument("--template", help="name of the prompt template (the one that fits the tokenizer)")
    parser.add_argument("--out", default="my_config.py", metavar="FILE", help="my_config.py")
    parser.add_argument(
        "--forgetting", action="store_true", help="also measure what the model knew before and what it loses"
    )
    add_lang(parser, "language of the comments")
    parser.add_argument(
        "--trust-remote-code", action="store_true", help="run Python files that the tokenizer brings along"
    )
    parser.add_argument("--force", action="store_true", help="overwrite a file with other content")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Inspect model and data, choose settings, print the reasons, write the config."""
    args = parse_args(argv)
    out = Path(args.out)
    if out.suffix != ".py":
        what = "--out is {given!r}; a config is a Python file: name it {name}.py"
        raise ConfigError(translate(what, given=args.out, name=out.stem))
    proposed = propose(
        args.model,
        args.data,
        args.method,
        args.template,
        args.lang,
        name=args.out,
        trust_remote_code=args.trust_remote_code,
        forgetting=args.forgetting,
        reward=args.reward,
    )
    write_new(out, proposed.text, force=args.force)
    print("\n".join(proposed.lines))
    command = f"xtuner train {shlex.quote(str(out))}"
    print(translate("Wrote {path}. Next: {command}", path=out, command=command))
    return 0
