"""What the program says, in Chinese, by the English: `CHINESE[text]`. Slots are the same in both."""

from xtuner.chinese.adapters import ADAPTERS
from xtuner.chinese.api import API
from xtuner.chinese.chat import CHAT
from xtuner.chinese.check import CHECK
from xtuner.chinese.code import CODE
from xtuner.chinese.compare import COMPARE
from xtuner.chinese.conversion import CONVERSION
from xtuner.chinese.convert import CONVERT
from xtuner.chinese.dataset import DATASET
from xtuner.chinese.engine import ENGINE, TRAINER
from xtuner.chinese.evaluation import EVALUATION
from xtuner.chinese.export import EXPORT
from xtuner.chinese.harness import HARNESS
from xtuner.chinese.heads import HEADS
from xtuner.chinese.help import HELP
from xtuner.chinese.hub import HUB
from xtuner.chinese.images import IMAGES
from xtuner.chinese.judge import JUDGE
from xtuner.chinese.layers import LAYERS
from xtuner.chinese.map_fns import MAP_FNS
from xtuner.chinese.model import MODEL
from xtuner.chinese.optimizers import OPTIMIZERS
from xtuner.chinese.preferences import PREFERENCES
from xtuner.chinese.prepare import PREPARE
from xtuner.chinese.proposal import PROPOSAL
from xtuner.chinese.reading import READING
from xtuner.chinese.replay import REPLAY
from xtuner.chinese.report import REPORT
from xtuner.chinese.rewards import REWARDS
from xtuner.chinese.scoring import SCORING
from xtuner.chinese.sweep import SWEEP
from xtuner.chinese.tracking import TRACKING
from xtuner.chinese.train import TRAIN
from xtuner.chinese.vision import VISION

CHINESE: dict[str, str] = {
    **HELP,
    **CHECK,
    **READING,
    **MAP_FNS,
    **DATASET,
    **IMAGES,
    **MODEL,
    **ADAPTERS,
    **OPTIMIZERS,
    **LAYERS,
    **ENGINE,
    **TRAINER,
    **TRAIN,
    **TRACKING,
    **PREFERENCES,
    **HEADS,
    **REWARDS,
    **SCORING,
    **VISION,
    **EVALUATION,
    **CODE,
    **HARNESS,
    **JUDGE,
    **COMPARE,
    **CHAT,
    **CONVERT,
    **CONVERSION,
    **PREPARE,
    **EXPORT,
    **HUB,
    **SWEEP,
    **REPORT,
    **REPLAY,
    **PROPOSAL,
    **API,
}
