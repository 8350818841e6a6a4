"""`xtuner push DIR REPO`: send a model or adapter folder to a hub."""

from __future__ import annotations

import argparse
from pathlib import Path

from xtuner.estimate.memory import size_text
from xtuner.language import translate
from xtuner.log import start_console
from xtuner.tools.arguments.parser import Parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The arguments of `xtuner push`."""
    parser = Parser(
        "xtuner push",
        description="Send a folder of a model or an adapter to Hugging Face or ModelScope, private by "
        "default. The token is that of `hf auth login` or HF_TOKEN (ModelScope: MODELSCOPE_API_TOKEN).",
    )
    parser.add_argument("folder", metavar="DIR", help="the folder, as xtuner convert writes it")
    parser.add_argument("repo", help="its name on the hub: OWNER/NAME, or NAME under your own")
    parser.add_argument("--modelscope", action="store_true", help="to ModelScope instead of Hugging Face")
    parser.add_argument(
        "--public", action="store_true", help="a new repository is public; one that is there stays as it is"
    )
    parser.add_argument(
        "--revision", default="main", help="the branch, on Hugging Face made if it is not there (main)"
    )
    parser.add_argument("--message", default="Upload by XTuner", help="the message of the commit")
    parser.add_argument(
        "--exclude", action="append", default=[], metavar="PATTERN", help="files to leave out: *.gguf"
    )
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="PATTERN",
        help="files to send although they hold a training's state or what looks like a key",
    )
    parser.add_argument("--dry-run", action="store_true", help="show what would be sent, and send nothing")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Send; returns 0 when all files are there."""
    args = parse_args(argv)
    start_console()
    from xtuner.convert import push

    folder = Path(args.folder).expanduser()
    push.check_folder_to_push(folder)
    push.check_plan(folder, push.plan_of(folder, args.exclude, args.allow))
    if not args.dry_run and push.add_card(folder):
        print(translate("README.md was written: {path}", path=folder / "README.md"))
    plan = push.plan_of(folder, args.exclude, args.allow)
    push.check_plan(folder, plan)
    for name, size in plan.files.items():
        print(f"{size_text(size):>10}  {name}")
    print(
        translate(
            "{count} files, {size:,} bytes ({left_out} left out)",
            count=len(plan.files),
            size=plan.num_bytes,
            left_out=plan.num_left_out,
        ),
        flush=True,
    )
    if args.dry_run:
        return 0
    target = push.Target(args.repo, args.revision, args.public, args.message)
    send = push.push_to_modelscope if args.modelscope else push.push_to_huggingface
    print(translate("Sent: {address}", address=send(folder, plan, target)))
    return 0
