"""Trains all variants of a config: base by base, in lockstep, with results on the disk after each.

A sweep that is resumed leaves out what is finished; the others go on from the newest iteration of which all
of them have a checkpoint, so that the same batches are mixed as before, or each from its newest.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from xtuner import dist
from xtuner.checkpoint_paths import by_age, counted, find_last
from xtuner.engine.checkpoints.files import find_whole
from xtuner.engine.hooks.validated import rule_for
from xtuner.engine.randomness import get_rng_state, set_rng_state
from xtuner.engine.sweep.lockstep import Lockstep
from xtuner.engine.sweep.member import Plan
from xtuner.engine.sweep.results import FAILED, FINISHED, Result, Results, read_results, write_results
from xtuner.engine.sweep.room import how_many, recompute_of
from xtuner.language import translate
from xtuner.locks import writing
from xtuner.log import logger
from xtuner.model.loading import register_families
from xtuner.model.shared import base_key, load_base, why_own_base
from xtuner.parallel.world import World, make_world


class Sweep:
    """The variants of a config in `work_dir`; `together`: the most at a time, by default what fits.

    `seed`: of the variants whose config has none; by default a new one, so that they differ in their settings
    alone.
    """

    def __init__(
        self,
        plans: Sequence[Plan],
        options: Sequence[Sequence[str]],
        work_dir: Path,
        together: int | None = None,
        seed: int | None = None,
    ) -> None:
        self.plans = plans
        self.work_dir = work_dir
        self.together = together
        self.seed = seed
        self.results = {
            plan.name: Result(plan.name, list(given), str(plan.work_dir))
            for plan, given in zip(plans, options, strict=True)
        }

    def train(self, resume: bool = False) -> list[Result]:
        """The results of all variants, once they are trained."""
        with writing(self.work_dir, translate("the work dir"), folder=True):
            before = read_results(self.work_dir) if resume else None
            self.seed = self._choose_seed(before)
            plans = [
                self._seeded(plan) for plan in (self.plans if before is None else self._unfinished(before))
            ]
            world = make_world()
            world.split(1)
            register_families()
            self._write()
            try:
                for _, same in itertools.groupby(sorted(plans, key=_base_of), _base_of):
                    self._train_over_one_base(list(same), world)
            finally:
                self._write()
                world.close()
        return list(self.results.values())

    def _choose_seed(self, before: Results | None) -> int:
        if before is not None and before.seed is not None:
            return before.seed
        return random.SystemRandom().randrange(2**31) if self.seed is None else self.seed

    def _seeded(self, plan: Plan) -> Plan:
        own = (plan.config.get("randomness") or {}).get("seed")
        return plan if own is not None else replace(plan, options=replace(plan.options, seed=self.seed))

    def _unfinished(self, before: Results) -> list[Plan]:
        """The variants that are not finished, each with the checkpoint that it goes on from."""
        for name, result in before.variants.items():
            if name in self.results and result.status == FINISHED:
                self.results[name] = result
        rest = [plan for plan in self.plans if self.results[plan.name].status != FINISHED]
        if len(rest) < len(self.plans):
            logger.info(translate("%d variants are finished already"), len(self.plans) - len(rest))
        common = common_checkpoint([plan.work_dir for plan in rest])
        if common is not None:
            logger.info(translate("All variants go on from %s"), common)
        return [
            replace(plan, options=replace(plan.options, resume=_checkpoint(plan.work_dir, common)))
            for plan in rest
        ]

    def _train_over_one_base(self, plans: Sequence[Plan], world: World) -> None:
        model, found = plans[0].config.model, [plan.options.forecast for plan in plans]
        reason = why_own_base(model)
        base, together = None, 1
        if reason:
            logger.info(translate("The variants train one after another: %s"), reason)
        else:
            together = min(len(plans), self.together or how_many(found))
            logger.info(translate("%d variants over one base, %d at a time"), len(plans), together)
            # A run draws its numbers from its seed on, whoever loads its base.
            state = get_rng_state()
            base = load_base(model, dist.device())
            set_rng_state(state)
        Lockstep(world, base, together, recompute_of(found, together), self._note_end).train(plans)

    def _note_end(self, plan: Plan, run: Any, error: str) -> None:
        result = self.results[plan.name]
        result.status, result.error = (FAILED, error) if error else (FINISHED, "")
        names = run.val_loop.metric_names if run is not None and run.val_loop is not None else None
        if names:
            result.metric, result.rule = names[0], rule_for(run, names[0], None)
        self._write()

    def _write(self) -> None:
        write_results(self.work_dir, Results(self.results, self.seed))


def _base_of(plan: Plan) -> str:
    return base_key(plan.config.model)


def common_checkpoint(folders: Sequence[Path]) -> str | None:
    """The newest `iter_N.pth` that all `folders` have, where one of them has a newer one; else None."""
    names = [
        {count[1]: path.name for path in by_age(folder) if (count := counted(path)) and count[0] == "iter"}
        for folder in folders
    ]
    if not names or not (common := set.intersection(*map(set, names))):
        return None
    newest = max(common)
    return names[0][newest] if any(max(own) > newest for own in names) else None


def _checkpoint(folder: Path, common: str | None) -> str | bool:
    """What a run in `folder` resumes from; False for one that has to begin."""
    if common is not None:
        return str(folder / common)
    return bool(find_last(folder)) and str(find_whole(folder))
