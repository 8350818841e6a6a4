"""`xtuner new-cfg`: a config for your own model folder and data file, ready to train."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from xtuner.errors import ConfigError
from xtuner.estimate.machine import find_machine
from xtuner.estimate.memory import size_text
from xtuner.log import start_console
from xtuner.proposal.methods import METHODS
from xtuner.tools.arguments.config import write_new
from xtuner.tools.arguments.parser import Parser, add_lang

if TYPE_CHECKING:
    from xtuner.estimate.machine import Machine
    from xtuner.proposal.choices import Proposal


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser("xtuner new-cfg", description=__doc__)
    parser.add_argument("--model", required=True, help="folder of the model")
    parser.add_argument("--data", required=True, help="file of rows: .json, .jsonl, .csv, .xlsx, ...")
    parser.add_argument(
        "--method",
        choices=METHODS,
        metavar="METHOD",
        help="lora where it fits into memory, else qlora; full for all weights. dpo likewise, for pairs of "
        "answers, or one of dpo_lora, dpo_qlora, dpo_full",
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
        raise ConfigError(f"--out is {args.out!r}; a config is a Python file: name it {out.stem}.py")
    # The folder is checked first, because the tokenizer needs torch, which is slow to import.
    from xtuner.check.files import check_data_path
    from xtuner.proposal.model import look_at_model

    start_console("WARNING")
    model = look_at_model(args.model, args.template, args.method)
    check_data_path(args.data)
    from xtuner.model.tokenizer import load_tokenizer
    from xtuner.proposal.choices import choose
    from xtuner.proposal.config import write_config
    from xtuner.proposal.pairs import look_at

    tokenizer = load_tokenizer(args.model, trust_remote_code=args.trust_remote_code)
    data = look_at(args.data, tokenizer, model.template, args.method, args.model if model.sees else None)
    machine = find_machine()
    proposal = choose(model, data, machine, args.method)
    text = write_config(out.stem, model, data, proposal, args.lang, args.forgetting)
    write_new(out, text, force=args.force)
    known = f", as {model.row.name}" if model.row else ""
    print(f"model    {model.path}: family {model.family}{known}, {model.context} positions")
    print(f"data     {data.path}: {data.num_rows} rows, about {data.num_tokens:.0f} tokens")
    _print(proposal, machine)
    print(f"Wrote {out}. Next: xtuner train {shlex.quote(str(out))}")
    return 0


def _print(proposal: Proposal, machine: Machine) -> None:
    for choice in proposal.choices:
        print(f"  {choice.name} = {choice.value}  ({choice.why})")
    if proposal.memory_bytes is None:
        print("memory   unknown: the family's config.json does not have the usual sizes")
        return
    short = "; this will not fit" if proposal.memory_bytes > machine.free_bytes else ""
    free = f"{size_text(machine.free_bytes)} free on {machine.name}"
    print(f"memory   about {size_text(proposal.memory_bytes)} ({free}){short}")
