"""The folder of one measurement, which the same command continues after a kill.

work_dirs/mmbench_dev_en/20261128_143000/
    args.json          what was measured, and how
    answers.jsonl      a line a question, as they come; answers.1.jsonl of the second process

Questions with an answer are not asked again, whatever the number of processes. Questions that could not be
asked, such as those with a broken image, are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from xtuner import atomic, json_lines
from xtuner.engine.build import free_timestamp
from xtuner.language import translate
from xtuner.locks import writing
from xtuner.parallel.world import World

Line = dict[str, Any]
"""The result of one question: its `index`, and an `error` if it could not be asked."""

TIMEOUT = 7 * 24 * 3600.0
"""Seconds that a process which has answered its questions waits for the others."""


class RunFolder:
    """The folder of the unfinished run of the same command below `above`, or a new one.

    `key` is a hash of all that answers depend on, asked on the first process alone, which locks the folder
    until `held` is closed. `args` is what is written of the command.
    """

    def __init__(
        self, above: Path, key: Callable[[], str], args: Mapping[str, Any], world: World, held: ExitStack
    ) -> None:
        self._world = world
        own_key = key() if world.is_first else ""

        def find() -> str:
            for file in sorted(above.glob("*/args.json"), reverse=True):
                try:
                    found = json.loads(file.read_text(encoding="utf-8"))
                except ValueError:
                    continue
                if found.get("key") == own_key and not found.get("is_finished"):
                    return file.parent.name
            return free_timestamp(above)

        self.path = above / world.broadcast_via_store(find)
        self.path.mkdir(parents=True, exist_ok=True)
        if world.is_first:
            held.enter_context(writing(self.path, translate("the work dir"), folder=True))
            write_json(self.path / "args.json", {**args, "key": own_key})
        world.connect(timeout=TIMEOUT)
        if world.local_rank == 0:
            for file in self.path.glob("answers*.jsonl"):
                json_lines.repair(file)

    @property
    def file(self) -> Path:
        """The file of lines of this process."""
        name = "answers.jsonl" if self._world.is_first else f"answers.{self._world.rank}.jsonl"
        return self.path / name

    def lines(self) -> dict[int | str, Line]:
        """The line of each question, by index, of all processes: their files may be on several machines."""
        self._world.all_gather(None)  # no process reads while another one writes
        own = [line for file in sorted(self.path.glob("answers*.jsonl")) for line in json_lines.read(file)]
        found: dict[int | str, Line] = {}
        for line in (line for part in self._world.all_gather(own) for line in part):
            # A question with an error was asked again, so it may have an answer too.
            if "error" in found.get(line["index"], {"error": ""}):
                found[line["index"]] = line
        return found

    def finish(self, lines: Iterable[Line]) -> None:
        """Write all lines to one file, and that the run is finished; of the first process."""
        with atomic.written(self.path / "answers.jsonl") as part, part.open("wb") as out:
            json_lines.append(out, lines)
        for file in self.path.glob("answers.*.jsonl"):
            atomic.remove(file)
        args = json.loads((self.path / "args.json").read_text(encoding="utf-8"))
        write_json(self.path / "args.json", {**args, "is_finished": True})


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON; the file is complete or absent."""
    with atomic.written(path) as part:
        part.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
