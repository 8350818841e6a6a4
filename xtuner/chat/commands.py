"""The commands that can be typed instead of a question: EXIT, RESET and those with a slash.

/undo          a command
/unod          a typing error: the most similar command is named
/tmp is full   a question
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtuner.chat import saved
from xtuner.chat.adapters import with_adapter
from xtuner.chat.dialogue import Dialogue
from xtuner.chat.trained_with import name_of, trained_template
from xtuner.errors import DataError, XTunerError, did_you_mean
from xtuner.language import translate
from xtuner.log import logger
from xtuner.model.lora import check_adapter_folder
from xtuner.utils.templates import is_tokenizers_own


@dataclass(frozen=True)
class Command:
    """A command: its argument, its help text and its function."""

    argument: str
    help: str
    run: Callable[[Dialogue, str], None]


# Inputs that are commands, in upper or lower case.
WORDS = {"EXIT": "/exit", "RESET": "/reset"}


def is_command(text: str) -> bool:
    """Whether `text` is a command, or a mistyped one."""
    name = text.split(maxsplit=1)[0] if text else ""
    if text.upper() in WORDS:
        return True
    return "\n" not in text and name.startswith("/") and (name in COMMANDS or bool(_near(name)))


def run_command(dialogue: Dialogue, text: str) -> None:
    """Run the command in `text`."""
    name, _, argument = text.partition(" ")
    command = COMMANDS.get(WORDS.get(text.upper(), name))
    if command is None:
        dialogue.screen.say(
            translate(
                "There is no command {name}.{hint} /help shows all of them.", name=name, hint=_near(name)
            )
        )
        return
    try:
        command.run(dialogue, argument.strip())
    except XTunerError as error:
        dialogue.screen.say(translate("Error: {error}", error=error))


def _near(name: str) -> str:
    return did_you_mean(name, COMMANDS)


def _help(dialogue: Dialogue, argument: str) -> None:
    rows = [
        (f"{name} {command.argument}".rstrip(), translate(command.help)) for name, command in COMMANDS.items()
    ]
    rows += [("EXIT, RESET", translate("the same as /exit and /reset"))]
    width = max(len(usage) for usage, _ in rows)
    dialogue.screen.say("\n".join(f"{usage:{width}}  {help}" for usage, help in rows))


def _save(dialogue: Dialogue, argument: str) -> None:
    if not argument:
        dialogue.screen.say(translate("/save needs the name of a file"))
        return
    path = Path(argument).expanduser()
    saved.save(dialogue.session, path)
    dialogue.screen.say(
        translate("Log: {count} turns saved to {path}", count=len(dialogue.session.turns), path=path)
    )


def _load(dialogue: Dialogue, argument: str) -> None:
    if not argument:
        dialogue.screen.say(translate("/load needs the name of a file"))
        return
    saved.load(dialogue.session, Path(argument).expanduser(), dialogue.answerer.ends)
    dialogue.screen.say(translate("Log: {count} turns loaded", count=len(dialogue.session.turns)))


def _system(dialogue: Dialogue, argument: str) -> None:
    if argument:
        dialogue.session.set_system(dialogue.make_system(argument))
    text = dialogue.session.system
    said = translate("Log: the system text is: {text}", text=text) if text else ""
    dialogue.screen.say(said or translate("Log: there is no system text"))


def _image(dialogue: Dialogue, argument: str) -> None:
    session = dialogue.session
    if session.pictures is None:
        raise DataError(translate("this model reads no images"))
    if dialogue.answerer.scorer is not None:
        raise DataError(translate("--best-of scores answers to texts: start without it to show images"))
    if argument:
        session.show(session.pictures.read(Path(_unquoted(argument)).expanduser()))
    names = ", ".join(picture.name for picture in session.shown)
    dialogue.screen.say(
        translate("Log: the next question is about {names}", names=names or translate("no new image"))
    )


def _unquoted(name: str) -> str:
    """The name of a file as typed, without quotes around it."""
    return name[1:-1] if len(name) > 1 and name[0] == name[-1] and name[0] in "'\"" else name


def _undo(dialogue: Dialogue, argument: str) -> None:
    if dialogue.session.shown:
        dialogue.session.shown = ()
        dialogue.screen.say(translate("Log: The images of the next question have been removed!"))
        return
    undone = dialogue.session.undo()
    said = translate("Log: The last turn has been removed!" if undone else "Log: there is no turn to undo")
    dialogue.screen.say(said)


def _reset(dialogue: Dialogue, argument: str) -> None:
    dialogue.session.reset()
    dialogue.screen.say(translate("Log: History responses have been removed!"))


def _exit(dialogue: Dialogue, argument: str) -> None:
    dialogue.screen.say(translate("Log: Exit!"))
    dialogue.ended = True


def _is_template_of(dialogue: Dialogue, template: Mapping[str, Any]) -> bool:
    """Whether the dialogue is written by `template`; the tokenizer's has stop words of its own there."""
    used = dialogue.session.template
    return used == template or (is_tokenizers_own(used) and is_tokenizers_own(template))


def _adapter(dialogue: Dialogue, argument: str) -> None:
    answerer = dialogue.answerer
    if argument:
        folder = None if argument == "none" else argument
        if folder is not None:
            folder = str(Path(folder).expanduser())
            check_adapter_folder(folder)
        try:
            answerer.use(with_adapter(answerer.model, folder))
        except XTunerError:
            answerer.use(with_adapter(answerer.model, dialogue.adapter))
            raise
        dialogue.adapter = folder
        trained = trained_template([folder]) if folder is not None else None
        if trained is not None and not _is_template_of(dialogue, trained):
            logger.warning(
                translate(
                    "this adapter was trained with the prompt template %s, but this dialogue has "
                    "another: its answers may be poor"
                ),
                name_of(trained),
            )
    dialogue.screen.say(
        translate("Log: the adapter is: {adapter}", adapter=dialogue.adapter or translate("none"))
    )


COMMANDS = {
    "/help": Command("", "show this", _help),
    "/save": Command("FILE", "write the dialogue to FILE as training data", _save),
    "/load": Command("FILE", "continue the dialogue in FILE", _load),
    "/image": Command("[FILE]", "show the image in FILE with the next question; repeatable", _image),
    "/system": Command("[TEXT]", "show the system text, or replace it by TEXT", _system),
    "/undo": Command("", "forget the last question and its answer, or the images of the next one", _undo),
    "/adapter": Command("[FOLDER|none]", "show the adapter, or switch to another or none", _adapter),
    "/reset": Command("", "forget all questions and answers", _reset),
    "/exit": Command("", "end the dialogue", _exit),
}

FILE_COMMANDS = [name for name, command in COMMANDS.items() if re.search("FILE|FOLDER", command.argument)]
"""The commands whose argument is a file or folder."""
