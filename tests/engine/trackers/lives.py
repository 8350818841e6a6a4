"""A training that is killed after iter 8, whose last checkpoint is of iter 6, and goes on from it."""

from xtuner.engine.build import build_run
from xtuner.engine.hooks.hook import Hook
from xtuner.engine.run import RunOptions

NUM_ITERS = 20
KILLED_AFTER = 8
STEPS = list(range(1, NUM_ITERS + 1))
SAMPLES = [[0, "hi?", "answer 0"], [9, "hi?", "answer 9"], [19, "hi?", "answer 19"]]


class Samples(Hook):
    """Shows a sample as EvaluateChatHook does, in iter 1, 10 and 20."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter in (0, 9, 19):
            runner.visualizer.add_text("sample/hi?", f"answer {runner.iter}", runner.iter)


class Killed(Hook):
    """Ends the run as a signal does."""

    priority = "LOWEST"

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == KILLED_AFTER:
            raise SystemExit(143)


def train(config, work_dir, *hooks, **options):
    """A run with these hooks, which may end early."""
    run = build_run(config, RunOptions(work_dir=str(work_dir), **options))
    run.hooks += [Samples(), *hooks]
    try:
        run.train()
    except SystemExit:
        assert any(isinstance(hook, Killed) for hook in hooks)
    return run


def two_lives(toy_config, work_dir, tracker, **options):
    """The two starts of the training."""
    config = {"visualizer.trackers": [tracker], **options}
    first = train(toy_config(**config), work_dir, Killed())
    second = train(toy_config(**config), work_dir, resume=True)
    assert second.visualizer.ids() == first.visualizer.ids()
    return first, second
