"""Trains several runs side by side, one batch of each at a time.

    round     1          2          3
    run 1     batch 0    batch 1    batch 2
    run 2     batch 0    batch 1    (ended)
    run 3                           batch 0      begins when there is room
              mixed      mixed      mixed        one forward and backward pass for all

Runs that cannot be mixed compute their batches one after the other. The failure of one ends only that one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from xtuner.engine.backend import to_device
from xtuner.engine.memory import explaining_out_of_memory
from xtuner.engine.steps import compute
from xtuner.engine.stop import StopSignal, noting_signals
from xtuner.engine.sweep.member import Member, Plan
from xtuner.errors import XTunerError
from xtuner.language import translate
from xtuner.log import logger
from xtuner.model.mixed import MixedFinetune, Share
from xtuner.model.train_module import Outputs
from xtuner.parallel.world import World

# Called with a plan, its run and the error that ended it, if one did.
OnEnd = Callable[[Plan, Any, str], None]


class Lockstep:
    """Runs over one base, at most `together` at a time; `recompute` is that of mixed batches."""

    def __init__(
        self, world: World, base: nn.Module | None, together: int, recompute: str, on_end: OnEnd
    ) -> None:
        self._world = world
        self._base = base
        self._together = together
        self._recompute = recompute
        self._on_end = on_end
        self._stop = StopSignal()
        self._members: list[Member] = []
        self._mixed: MixedFinetune | None = None

    def train(self, plans: Sequence[Plan]) -> None:
        """Train all of them; SystemExit if a signal has stopped them, with a checkpoint of each."""
        waiting = deque(plans)
        try:
            with noting_signals() as heard:
                while waiting or self._members:
                    while waiting and len(self._members) < self._together:
                        self._join(waiting.popleft())
                    # A signal within a round counts from the next one: all stop after the same round.
                    self._stop.number = heard.number
                    self._round()
                    if self._stop.number:
                        raise SystemExit(128 + self._stop.number)
        finally:
            for member in self._members:
                member.close()

    def _join(self, plan: Plan) -> None:
        try:
            member = Member(plan, self._world, self._base, self._stop)
        except XTunerError as error:
            self._report(plan, None, error)
            return
        if member.apart and self._together > 1:
            logger.info(translate("%s computes its batches by itself: %s"), plan.name, member.apart)
        self._move(member, member.begin)
        if member.step is None:
            return
        self._members.append(member)
        if not member.apart:
            if self._mixed is None:
                assert self._base is not None
                self._mixed = MixedFinetune(self._base, self._recompute)
            self._mixed.add(plan.name, member.run.model)

    def _round(self) -> None:
        """Compute the batch that each run waits for, and go on to the next ones."""
        members = list(self._members)
        found = self._compute_mixed(members)
        for member in members:
            outputs = found.get(member.plan.name)
            if outputs is None:
                self._move(member, partial(_advance_alone, member))
            else:
                self._move(member, partial(member.advance, outputs))
            if member.step is None:
                self._members.remove(member)
                if self._mixed is not None:
                    self._mixed.remove(member.plan.name)

    def _move(self, member: Member, move: Callable[[], None]) -> None:
        """Let `member` move; where it ends, `on_end` is called."""
        error = None
        try:
            move()
        except XTunerError as found:
            member.step, error = None, found
        except SystemExit:
            member.step = None
            return
        if member.step is None:
            self._report(member.plan, member.run, error)

    def _report(self, plan: Plan, run: Any, error: XTunerError | None) -> None:
        if error is not None:
            logger.error(translate("%s has failed: %s"), plan.name, error)
        self._on_end(plan, run, "" if error is None else str(error))

    def _compute_mixed(self, members: Sequence[Member]) -> dict[str, Outputs]:
        """The outputs of the members whose batches are mixed, by name."""
        kinds: dict[Any, list[Member]] = {}
        for member in members:
            # A batch without a loss has no backward.
            if not member.apart and member.step is not None and member.step.count:
                kinds.setdefault(member.precision, []).append(member)
        found: dict[str, Outputs] = {}
        for same in kinds.values():
            if len(same) > 1:
                found |= self._mix(same)
        return found

    def _mix(self, members: Sequence[Member]) -> dict[str, Outputs]:
        assert self._mixed is not None
        shares = [_share(member) for member in members]
        wrappers = [member.run.optim_wrapper for member in members]
        names = ", ".join(member.plan.name for member in members)
        try:
            with explaining_out_of_memory(members[0].run.forecast, partial(_together, names)):
                with wrappers[0].autocast():
                    losses = self._mixed.losses(shares)
                scaled = [w.scaled(loss) for w, loss in zip(wrappers, losses, strict=True)]
                torch.stack(scaled).sum().backward()
        finally:
            self._mixed.done()
        for member, share in zip(members, shares, strict=True):
            assert member.turn.random is not None
            member.turn.random["torch"] = share.random.get_state()
        return {
            share.owner: {"loss": loss.detach(), "sums": {}}
            for share, loss in zip(shares, losses, strict=True)
        }


def _together(names: str) -> str:
    return translate("Computed together: {names}; --resume --together N goes on with fewer", names=names)


def _share(member: Member) -> Share:
    assert member.step is not None
    assert member.turn.random is not None
    random = torch.Generator()
    random.set_state(member.turn.random["torch"])
    data = to_device(member.step.batch["data"], member.run.device)
    return Share(member.plan.name, data, member.step.window_count, random)


def _advance_alone(member: Member) -> None:
    member.advance(_alone(member))


def _alone(member: Member) -> Outputs:
    """The outputs of a member's step, by its run alone."""
    try:
        with member.computing() as step:
            return compute(member.run, step)
    except BaseException as error:
        member.fail(error)
        raise
