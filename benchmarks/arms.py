"""The recipes that the study of the optimiser compares: data only. A step is counted in windows of 128 tokens."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from babygpt.recipe import OptimRecipe, ScheduleRecipe

__all__ = ["ARMS", "CONFIRMED", "Arm"]

# What `babygpt train` takes at these sizes: 4,096 tokens a step in windows of 128, as preset:llama-5m does.
_WINDOWS = 32


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Args:
        name: of the arm.
        optim: as in a recipe; `auto` is resolved as for random weights.
        schedule: as in a recipe.
        windows: of one optimiser step.
        rate: the resolved learning rate is multiplied by it.
        embedding_rate: likewise, of embeddings and head alone.
        cautious: a weight is decayed only where decay and update have the same sign (arXiv:2510.12402).
        ramp: share of the run's tokens, taken in steps of a quarter of `windows`, before the steps are whole.
    """

    name: str
    optim: OptimRecipe = field(default_factory=OptimRecipe)
    schedule: ScheduleRecipe = field(default_factory=ScheduleRecipe)
    windows: int = _WINDOWS
    rate: float = 1.0
    embedding_rate: float = 1.0
    cautious: bool = False
    ramp: float = 0.0


_DEFAULT = Arm("default")
# AdamW, its betas and its decay, a cosine to zero over the run's whole length without warm-up, nothing clipped, and
# eight sequences a step: those of GPT-2's tutorial have 512 tokens, so that it makes as many tokens as the default.
_TUTORIAL = Arm(
    "tutorial",
    OptimRecipe(name="adamw", lr=3e-4, weight_decay=0.1, betas=(0.9, 0.95), grad_clip=0.0),
    ScheduleRecipe("cosine", warmup=0.0, final=0.0),
)

_ALL = (
    _TUTORIAL,
    replace(_TUTORIAL, name="tutorial-8-windows", windows=8),
    replace(_TUTORIAL, name="tutorial-tuned", optim=replace(_TUTORIAL.optim, lr="auto")),
    _DEFAULT,
    Arm("adamw", OptimRecipe(name="adamw")),
    Arm("adamw-double", OptimRecipe(name="adamw"), rate=2.0),
    Arm("adamw-triple", OptimRecipe(name="adamw"), rate=3.0),
    Arm("windows-16", windows=16),
    Arm("rate-double", rate=2.0),
    Arm("wsd", schedule=ScheduleRecipe("wsd")),
    Arm("cautious", cautious=True),
    Arm("cosine", schedule=ScheduleRecipe("cosine", final=0.0)),
    Arm("embedding-triple", embedding_rate=3.0),
    Arm("embedding-third", embedding_rate=1 / 3),
    Arm("rate-half", rate=0.5),
    Arm("betas-0.999", OptimRecipe(betas=(0.9, 0.999))),
    Arm("decay-0", OptimRecipe(weight_decay=0.0)),
    Arm("decay-0.01", OptimRecipe(weight_decay=0.01)),
    Arm("warmup-0", schedule=ScheduleRecipe(warmup=0.0)),
    Arm("warmup-10", schedule=ScheduleRecipe(warmup=0.1)),
    Arm("combined", schedule=ScheduleRecipe("wsd"), windows=16, embedding_rate=3.0),
    Arm("ramp", ramp=0.25),
    Arm("windows-8", windows=8),
    Arm("windows-64", windows=64),
)
ARMS = {arm.name: arm for arm in _ALL}
CONFIRMED = ("tutorial", "default", "tutorial-8-windows", "windows-16", "embedding-triple")
