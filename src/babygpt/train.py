"""The verb `train`: settings in, a run folder and its result out.

1. A new run resolves its recipe and plan, and writes both into its folder; a resumed one reads them there.
2. Step 0 is validated, then Lightning's trainer runs to the budget's end.
3. The result says what was reached and where everything is.

Further processes of the same run, started here, by torchrun or by srun, come through here too: the first one tells
them which run it is, and they read what it has written.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import lightning as L
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from rich.console import Console

from babygpt import budgets
from babygpt.computer import keep_freed_memory, peak_memory_bytes
from babygpt.data.module import LLMDataModule
from babygpt.data.remote import STANDARD_INPUT
from babygpt.disk import expanded, plain_errors
from babygpt.errors import CheckpointError, InputError, MachineError, SpikeSeen, Stopped
from babygpt.files import read_manifest
from babygpt.launch import Launch, launched
from babygpt.logger_names import check_installed
from babygpt.machine import MachineRequest
from babygpt.model.cost import model_cost
from babygpt.model.loss import rows_of_head
from babygpt.prepare import PreparationView
from babygpt.report.verb import report
from babygpt.run_folder import holds_run, whole_lines
from babygpt.settings import ReportSettings, TrainSettings
from babygpt.training.alive import alone_in, noted
from babygpt.training.callbacks import RunFiles, Sampler, cut_after
from babygpt.training.checkpoint_io import FolderCheckpointIO
from babygpt.training.children import assembled, end_with_parent
from babygpt.training.fit import messages_to, quiet
from babygpt.training.guards import SAVE, SignalGuard, requeue, slurm_job
from babygpt.training.health_watch import HealthWatch
from babygpt.training.loggers import Loggers
from babygpt.training.meeting import Meeting, meeting, told_of
from babygpt.training.memory import is_out_of_memory
from babygpt.training.module import BabyGPT
from babygpt.training.parts import first_words
from babygpt.training.progress import ProgressView
from babygpt.training.restarts import begun_by, going_on
from babygpt.training.result import RunResult, finished, result_of
from babygpt.training.resume import resume
from babygpt.training.saving import RunCheckpoints, SavePlan, settle
from babygpt.training.spikes import MOST_ROLLBACKS, read_rollbacks
from babygpt.training.start import Run, begin, go_back, new_folder, pieces, reopen, shrink, write_measured
from babygpt.training.stores import is_lost_connection
from babygpt.training.together import Together
from babygpt.training.tuning import NoProfiler
from babygpt.training.watchdog import Watchdog
from babygpt.training.writer import BackgroundWriter
from babygpt.untrusted import is_utf8, shown

__all__ = ["RunResult", "train"]

# What a state of the wrong form makes of Lightning's and torch's own restoring.
_RESTORING = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)
# Set once this process is one of several: it is there until they end.
_one_of_several = threading.Event()


def train(settings: TrainSettings) -> RunResult:
    """Trains, or goes on training.

    Raises:
        InputError: something given is wrong; nothing is left half-written.
        Stopped: a signal asked to stop, and the run has saved.
    """
    quiet()
    keep_freed_memory()
    settings = _at_home(settings)
    console = Console(stderr=True)
    guard = SignalGuard()

    launch = launched()
    nodes = settings.machine.nodes
    _only_once(launch, settings.machine)

    def say(message: str) -> None:
        if launch.is_first:
            console.print(shown(message), markup=False, highlight=False, soft_wrap=True)

    place = Path(settings.out or settings.resume or "runs")
    with (
        guard.installed(),
        messages_to(say),
        meeting(launch, 1 if nodes == "auto" else nodes, guard) as others,
        plain_errors(place),
        ExitStack() as held,
    ):
        try:
            check_installed(settings.log)
            settings = replace(settings, machine=launch.asked(settings.machine))
            run = (
                _first(settings, others, held, guard, console, say)
                if launch.is_first
                else _further(settings, others)
            )
            under_way = False
            while True:
                try:
                    return _fit(run, others, guard, say, console, under_way=under_way)
                except SpikeSeen as spike:
                    if not launch.is_first:
                        raise
                    run = go_back(run, spike, say)
                except Exception as error:
                    if isinstance(error, FileNotFoundError) and not holds_run(run.out):
                        raise _gone(run.out) from error
                    if not is_out_of_memory(error) or not launch.is_first:
                        raise
                    run = shrink(run, error, say)
                under_way = True
        except Stopped as stopped:
            job = slurm_job()
            if job and stopped.signum == SAVE and launch.is_first:
                requeue(job, say)
            raise


def _at_home(settings: TrainSettings) -> TrainSettings:
    """The settings with the run folder where a `~` in its name leads.

    Raises:
        InputError: there is no such home folder, or the name is one that no tokenizer can be saved under.
    """
    out, resumed = (None if each is None else str(expanded(each)) for each in (settings.out, settings.resume))
    name = f"{out}{resumed}"
    if not is_utf8(name) or "\0" in name:
        what = "the name holds a zero, or bytes that are no UTF-8"
        raise InputError(what, where="resume" if resumed else "out", hint="Give a folder of another name")
    return replace(settings, out=out, resume=resumed)


def _gone(out: Path) -> CheckpointError:
    return CheckpointError(
        "the run folder was removed while it was trained in",
        where=str(out),
        hint="Put it back and go on with --resume, or begin anew",
    )


def _first(
    settings: TrainSettings,
    others: Meeting,
    held: ExitStack,
    guard: SignalGuard,
    console: Console,
    say: Callable[[str], None],
) -> Run:
    """Begins or resumes the run, keeps other commands out of its folder, and tells the others which it is."""
    launch, again = others.launch, going_on(others.kept(), settings)
    if again is not None:
        say(f"restart {launch.restart} of {launch.restarts}: going on with {again.resume} as --resume would")
        settings = again
    with PreparationView(console) as preparation:

        def progress(stage: str, done: int, total: int) -> None:
            guard.raise_if_asked()
            preparation(stage, done, total)

        if settings.resume:
            held.enter_context(alone_in(Path(settings.resume)))
            run = resume(settings, say, progress)
        else:
            settings = replace(settings, out=str(new_folder(settings.out)))
            others.keep(begun_by(settings, Path(str(settings.out))))

            def claim(out: Path) -> None:
                held.enter_context(alone_in(out))

            run = begin(settings, say, progress, claim)
    if _step_of(run.checkpoint) < run.steps:
        held.enter_context(noted(run.out, run.plan.micro_batch, say))
        if run.plan.devices > 1 and not others.is_open:
            _one_of_several.set()
            others.open_here()
    others.tell(told_of(run.out, run.checkpoint))
    return run


def _only_once(launch: Launch, asked: MachineRequest) -> None:
    """The processes of a run are there until they end, and would take a second one for it.

    Raises:
        MachineError: this process has been one of several, and is to be it again.
    """
    several = launch.is_child or launch.world > 1 or asked.nodes not in ("auto", 1)
    if _one_of_several.is_set() and (several or asked.devices != 1):
        raise MachineError(
            "this process has done a run on several devices already, and its others know of no second one",
            where="machine.devices",
            hint="Start a process of its own for each run, or take machine.devices 1",
        )
    if several:
        _one_of_several.set()
    if launch.is_child:
        end_with_parent()


def _further(settings: TrainSettings, others: Meeting) -> Run:
    """The run that the first process tells of."""
    told = others.hear()
    os.environ[STANDARD_INPUT] = told.standard_input
    return reopen(Path(told.out), settings, None if told.checkpoint is None else Path(told.checkpoint))


# -- the fit ---------------------------------------------------------------------------------------------------------


def _fit(
    run: Run,
    others: Meeting,
    guard: SignalGuard,
    say: Callable[[str], None],
    console: Console,
    *,
    under_way: bool = False,
) -> RunResult:
    done, is_first = _step_of(run.checkpoint), others.launch.is_first
    if run.checkpoint is not None and is_first:
        settle(run.checkpoints, run.checkpoint)
    if done >= run.steps:
        return finished(run, done)
    data, module = pieces(run)
    module.logs_steps = False
    files = RunFiles(run.out)
    if is_first:
        cut_after(run.out / "metrics.jsonl", done if run.checkpoint else -1)
        cut_after(run.out / "samples.jsonl", done if run.checkpoint else -1)

    before = whole_lines(run.out / "metrics.jsonl") if is_first else ()
    health = HealthWatch(files, before, run.steps, say)
    flops = cache(partial(_step_flops, run, data, module))

    def measured(peak: float) -> None:
        write_measured(run.out, matrix_peak=peak, step_flops=flops())

    view = ProgressView(run.steps, console, files, health, flops, measured)
    sampler = Sampler(run.out, data.tokenizer, first_words(data), view.sample)
    log = run.settings.log if is_first else ()
    loggers = Loggers(log, run.out, run.recipe, done, say, under_way=under_way)
    loggers.listen(files)
    writer = BackgroundWriter()

    def flush() -> None:
        files.flush()
        sampler.flush()

    saving = RunCheckpoints(
        _save_plan(run),
        guard,
        flush,
        lambda m: say(f"checkpoints: {m}"),
        writer,
    )
    minutes = run.settings.machine.stall_minutes
    watchdog = Watchdog(None if minutes is None else 60 * minutes)
    plan, recipe = run.plan, run.recipe
    accumulate = -(-int(recipe.data.global_batch_size) // (plan.micro_batch * plan.devices * plan.nodes))
    trainer = L.Trainer(
        accelerator={"cuda": "gpu"}.get(plan.device, plan.device),
        devices=plan.devices,
        num_nodes=plan.nodes,
        strategy=plan.strategy,
        precision=plan.precision,  # type: ignore[arg-type]
        max_steps=run.steps,
        max_epochs=-1,
        accumulate_grad_batches=accumulate,
        gradient_clip_val=recipe.optim.grad_clip or None,
        val_check_interval=int(recipe.validate.every_steps) * accumulate,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=10,
        profiler=NoProfiler(),
        use_distributed_sampler=False,
        callbacks=[Together(guard, watchdog, files, view, sampler, health, saving, loggers)],
        # Its own choice would go by whatever a cluster leaves in the environment.
        plugins=[FolderCheckpointIO(writer, run.recipe), LightningEnvironment()],
    )
    begun = time.monotonic()
    try:
        with assembled(others, plan.devices, plan.nodes, say), watchdog.watching():
            if run.checkpoint is None:
                trainer.validate(module, datamodule=data, verbose=False)
                guard.raise_if_asked()
            begun = time.monotonic()
            path = None if run.checkpoint is None else str(run.checkpoint)
            trainer.fit(module, datamodule=data, ckpt_path=path)
    except _RESTORING as error:
        if (
            run.checkpoint is None
            or saving.begun
            or isinstance(error, InputError)
            or is_lost_connection(error)
        ):
            raise
        raise CheckpointError(
            f"the training state cannot be restored ({type(error).__name__}: {error})",
            where=str(run.checkpoint),
            hint="Take the folder away to go on from an earlier checkpoint, or start a new run from it as model.name",
        ) from error
    result = result_of(run, files, sampler, module, time.monotonic() - begun, saving.stalled)
    return replace(result, report=_page(run, console)) if trainer.is_global_zero else result


def _step_flops(run: Run, data: LLMDataModule, module: BabyGPT) -> float:
    """Floating-point operations of a step, forward and backward, but for those of the head that are passed over."""
    flops = budgets.step_flops(run.recipe, module.model.config)
    if not module.has_head:
        return flops
    cost, tokens = (
        model_cost(module.model.config),
        int(run.recipe.data.block) * int(run.recipe.data.global_batch_size),
    )
    spared = 1 - rows_of_head(data.plan.counted_share, run.plan.device)
    return flops - 6 * cost.vocabulary * cost.width * tokens * spared


def _page(run: Run, console: Console) -> str | None:
    """Writes the most memory used into `machine.json`, and the page about the run; a run never fails for either."""
    try:
        write_measured(run.out, peak_memory_bytes=peak_memory_bytes(run.plan.device))
        return report(ReportSettings((str(run.out),))).page
    except Exception as error:
        message = f"report: the page could not be written ({type(error).__name__}: {error})"
        console.print(shown(message), markup=False, highlight=False, soft_wrap=True)
        return None


def _step_of(checkpoint: Path | None) -> int:
    return 0 if checkpoint is None else int(read_manifest(checkpoint).facts["step"])


def _save_plan(run: Run) -> SavePlan:
    every = run.settings.checkpoint.every_steps
    validate_every = int(run.recipe.validate.every_steps)
    return SavePlan(
        folder=run.checkpoints,
        total_steps=run.steps,
        validate_every=validate_every,
        every_steps=validate_every if every == "auto" else every,
        every_minutes=run.settings.checkpoint.every_minutes,
        keep=run.settings.checkpoint.keep,
        roll_back=run.recipe.optim.on_spike == "rollback" and len(read_rollbacks(run.out)) < MOST_ROLLBACKS,
    )
