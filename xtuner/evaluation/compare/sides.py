"""The two sides of a comparison: a model, an adapter, or a file of answers.

work_dirs/compare_qwen_tuned/
    a.jsonl, b.jsonl     the answers, as xtuner predict writes them
    a.json, b.json       of whom they are: the same command does not ask again
    compare.html         both side by side
    results.json         numbers of each metric, and of the votes
    votes.jsonl          the votes (votes.py)
    verdicts.jsonl, judge.json    what a judge says (judge/duels.py)
"""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from xtuner import atomic
from xtuner.errors import ConfigError, NotFoundError
from xtuner.evaluation.compare.page import file_page
from xtuner.evaluation.compare.pairs import Pair, Score, read_pairs, score
from xtuner.evaluation.compare.votes import Votes
from xtuner.evaluation.judge.duels import Verdicts, read_verdicts
from xtuner.evaluation.run_folder import write_json
from xtuner.language import language, translate
from xtuner.log import logger
from xtuner.model_address import local_model
from xtuner.model_folder import check_model_path, with_base
from xtuner.paths import check_adapter_path

if TYPE_CHECKING:
    from xtuner.evaluation.text.settings import Settings
    from xtuner.parallel.world import World


@dataclass(frozen=True)
class Side:
    """One side: its name on the page, and its file of answers or its model, with the adapter on it."""

    name: str
    file: Path | None = None
    model: str = ""
    adapter: str | None = None

    def check(self) -> None:
        """Raise NotFoundError or ModelError if its model is not there."""
        if self.file is None:
            check_model_path(self.model)
            if self.adapter is not None:
                check_adapter_path(self.adapter)


def read_sides(a: str, b: str, data: str | None, base: str | None = None) -> tuple[Side, Side]:
    """The two sides that a command names; `base` is the model of adapters that name none, or a wrong one."""
    for given in (a, b):
        if Path(given).suffix in (".json", ".jsonl") and not Path(given).expanduser().exists():
            raise NotFoundError(translate("there is no {path!r}{near}", path=given, near=""))
    sides = _side(a, base), _side(b, base)
    models = [given for given, side in zip((a, b), sides, strict=True) if side.file is None]
    if models and data is None:
        what = "{model} is a model: name the rows that it is to answer, as the third argument"
        raise ConfigError(translate(what, model=models[0]))
    if data is not None and not models:
        raise ConfigError(
            translate("{a} and {b} are files of answers: leave {data} out", a=a, b=b, data=data)
        )
    if sides[0].name == sides[1].name:
        sides = replace(sides[0], name=a), replace(sides[1], name=b)
    return sides


def _side(given: str, base: str | None) -> Side:
    path = Path(given).expanduser()
    if path.is_file():
        return Side(path.stem, file=path)
    given, base = local_model(given), base and local_model(base)
    path = Path(given).expanduser()
    name = path.resolve().name if path.is_dir() else given
    if not (path / "adapter_config.json").is_file():
        return Side(name, model=given)
    found, adapter = (base, given) if base is not None else with_base(given)
    return Side(name, model=str(found), adapter=None if adapter is None else str(adapter))


def folder_of(sides: tuple[Side, Side], work_dir: str | None) -> Path:
    """The folder of the comparison."""
    names = "_".join(side.name.replace("/", "_") for side in sides)
    return Path(work_dir) if work_dir else Path("work_dirs") / f"compare_{names}"


def answer_both(
    sides: tuple[Side, Side], settings: Settings, data: str | None, folder: Path, world: World
) -> None:
    """Write the answers of both sides into `folder`, where they are not there already."""
    if world.is_first:
        folder.mkdir(parents=True, exist_ok=True)
    for letter, side in zip("ab", sides, strict=True):
        file = folder / f"{letter}.jsonl"
        if side.file is None:
            assert data is not None
            own = replace(settings, model=side.model, adapter=side.adapter)
            _answer(own, side, data, file, world)
        elif world.is_first and side.file.resolve() != file.resolve():
            with atomic.written(file) as part:
                shutil.copyfile(side.file, part)


def _answer(settings: Settings, side: Side, data: str, file: Path, world: World) -> None:
    from xtuner.evaluation.text.measure import key_of
    from xtuner.evaluation.text.predict import predict
    from xtuner.evaluation.text.tasks import read_rows

    settings.check()
    about = file.with_suffix(".json")

    def known() -> list[str] | None:
        """What the answers depend on; None if they are there."""
        task, _ = read_rows(data, settings.limit)
        key = [key_of(settings, [task]), *settings.metrics]
        if file.exists() and about.exists() and json.loads(about.read_text(encoding="utf-8")) == key:
            return None
        return key

    key = world.broadcast_via_store(known)
    if key is None:
        logger.info(translate("the answers of %s are there already: %s"), side.name, file)
        return
    logger.info(translate("%s answers"), side.name)
    if world.is_first:
        atomic.remove(about)
    lines = predict(settings, data, str(file), world)
    if world.is_first:
        write_json(about, key)
        for line in (lines or [])[:-1]:
            logger.info("%s: %s", side.name, line)
    gc.collect()  # the model leaves before the next one comes


def write_comparison(
    folder: Path, names: tuple[str, str], metrics: Sequence[str] = ()
) -> tuple[list[Pair], list[str]]:
    """Write the page and the numbers of the answers in `folder`; the pairs, and lines on what came of it."""
    pairs, notes = read_pairs((folder / "a.jsonl", folder / "b.jsonl"), metrics)
    scores = score(pairs)
    votes, verdicts = Votes(folder / "votes.jsonl", pairs), read_verdicts(folder, pairs)
    page, results = folder / "compare.html", folder / "results.json"
    with atomic.written(page) as part:
        part.write_text(file_page(names, pairs, scores, votes, verdicts, language()), encoding="utf-8")
    same = sum(pair.answers[0] == pair.answers[1] for pair in pairs)
    write_json(results, _as_json(names, pairs, same, scores, votes, verdicts))
    what = "{count:,} rows: {same:,} answers are the same"
    lines = [*notes, translate(what, count=len(pairs), same=same), *table(names, scores)]
    if votes.num_others:
        what = "{count:,} votes are on other answers: they do not count"
        lines.append(translate(what, count=votes.num_others))
    lines += votes.summary().lines(names) + verdicts.lines(names)
    return pairs, [*lines, translate("The results are in {out}", out=f"{page}, {results}")]


def table(names: tuple[str, str], scores: dict[str, Score]) -> list[str]:
    """A line for each metric."""
    what = (
        "{metric}: {a:.4f} for {name_a}, {b:.4f} for {name_b}; better in {wins_a:,} and {wins_b:,} rows, "
        "equal in {ties:,}"
    )
    return [
        translate(
            what,
            metric=metric,
            a=one.means[0],
            name_a=names[0],
            b=one.means[1],
            name_b=names[1],
            wins_a=one.wins[0],
            wins_b=one.wins[1],
            ties=one.ties,
        )
        for metric, one in scores.items()
    ]


def _as_json(
    names: tuple[str, str],
    pairs: Sequence[Pair],
    same: int,
    scores: dict[str, Score],
    votes: Votes,
    verdicts: Verdicts,
) -> dict[str, object]:
    metrics = {
        name: {
            "a": one.means[0],
            "b": one.means[1],
            "a_wins": one.wins[0],
            "b_wins": one.wins[1],
            "ties": one.ties,
        }
        for name, one in scores.items()
    }
    found = {"a": names[0], "b": names[1], "rows": len(pairs), "same": same, "metrics": metrics}
    given = votes.summary()
    if given.count:
        rate = {"win_rate_b": given.rate, "interval": list(given.interval)}
        found["votes"] = {"a": given.a, "b": given.b, "ties": given.ties, **rate}
    if verdicts.judge:
        found["judge"] = verdicts.as_json()
    return found
