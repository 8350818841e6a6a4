"""`xtuner convert ollama MODEL OUT`: write the Modelfile of a model for Ollama."""

from __future__ import annotations

import argparse

from xtuner.language import translate
from xtuner.log import start_console
from xtuner.tools.arguments.addresses import find_model
from xtuner.tools.arguments.parser import Parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The arguments of `xtuner convert ollama`."""
    parser = Parser(
        "xtuner convert ollama", description="Write a Modelfile with the model's prompt template."
    )
    parser.add_argument("model_name_or_path", help="the model: a folder or a name on the hub")
    parser.add_argument("out_dir", help="the folder to write the Modelfile to")
    parser.add_argument("--gguf", help="the file of weights, by xtuner convert gguf (the model's folder)")
    parser.add_argument(
        "--prompt-template", help="form of the prompt (the one that the model was trained with)"
    )
    parser.add_argument("--system", help="the system text")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Write the Modelfile; returns 0."""
    args = parse_args(argv)
    start_console()
    find_model(args, "model_name_or_path")
    from xtuner.convert.ollama import write_modelfile

    write_modelfile(
        args.model_name_or_path,
        args.out_dir,
        weights=args.gguf,
        prompt_template=args.prompt_template,
        system=args.system,
    )
    print(translate("All done!"))
    return 0
