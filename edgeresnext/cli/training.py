"""The command that trains."""

from __future__ import annotations

import logging
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import edgeresnext
from edgeresnext.cli import console
from edgeresnext.cli.as_typed import given, preprocessing
from edgeresnext.cli.console import say
from edgeresnext.cli.options import json_option, replaced
from edgeresnext.progress import silent

if TYPE_CHECKING:
    from edgeresnext.spec import Epoch


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--model", metavar="NAME", help="Network, as `models` lists them. [that of the weights]")
@click.option("--weights", help="Where it begins: a file, hf:OWNER/NAME, torchvision:NAME, https://... [random]")
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Folder of the run; a new one.")
@click.option("--resume", type=click.Path(path_type=Path), metavar="RUN", help="Go on with the run of this folder.")
@click.option("--validation", type=click.Path(path_type=Path), help="Images that judge. [a tenth of each class]")
@click.option("--preprocess", type=preprocessing, metavar="NAME|FILE", help="Preprocessing, as `models` lists them.")
@click.option("--recipe", metavar="NAME|FILE", help="quick, standard, long, int8 or a TOML file: all that is not here.")
@click.option("--epochs", type=int, metavar="N", help="Passes over the images.")
@click.option("--batch", type=int, metavar="N", help="Images a step.")
@click.option("--learning-rate", type=float, metavar="NUMBER", help="Its highest. [by task and batch]")
@click.option("--freeze", metavar="PART", help="Learn behind this alone: stem, layer1 to layer4, all-but-head.")
@click.option("--new-head", is_flag=True, help="A new last layer, though the weights' own has as many classes.")
@click.option(
    "--int8",
    is_flag=False,
    flag_value="signed",
    type=click.Choice(["signed", "unsigned"]),
    help="Quantise in training, as the files for GPUs or for CPUs do; both profit. [signed]",
)
@click.option("--distil", is_flag=True, help="With --int8: learn from the weights in floating point, without labels.")
@json_option
def train(as_json: bool, **options: Any) -> None:  # noqa: ANN401, FBT001
    """Train a network on DATA, a folder with one folder of images a class: from weights, from nothing, or on in INT8.

    \b
    Fine-tune:     edgeresnext train photos/ --model resnext50_32x4d --weights w.safetensors -o run/
    Go on:         edgeresnext train photos/ --resume run/
    Win INT8 back: edgeresnext train photos/ --weights run/best.safetensors --int8 -o run8/
    """  # noqa: D301 - click wants the character, not the two
    from edgeresnext.training import recipes
    from edgeresnext.training.run_folder import read_run

    asked = given(options)
    resumed = asked.get("resume")
    named = asked.pop("recipe", None)
    usual = read_run(resumed).recipe if resumed else recipes.RECIPES["int8" if "int8" in asked else "standard"]
    base = recipes.read(named) if named else usual
    recipe = replaced(base, asked)
    first = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun starts, one speaks
    if not first:
        logging.getLogger("edgeresnext").setLevel(logging.ERROR)
    with console.progress() as bars:
        line = _line if first and not as_json else _silent
        progress = bars if first else silent
        try:
            done = edgeresnext.train(recipe=recipe, progress=progress, callbacks=(line,), **asked)
        except KeyboardInterrupt:
            if first:
                _say_how_to_go_on(options)
            raise
    best = done.best
    if not first:
        return
    if as_json:
        console.print_json({"run": str(done.path), "weights": str(done.weights), "best": best, "epochs": done.history})
        return
    say(f"{done.weights}: {_merit(best)}, epoch {best.epoch} of {done.run.recipe.epochs}")
    page = done.path / "report.html"
    look = [shlex.join(["open", str(page)])] if page.exists() else []
    build = ["edgeresnext", "build", done.run.model.name, "--weights", str(done.weights)]
    console.hint("Next:", *look, shlex.join([*build, "--calibration", str(done.data), "--output", "build/mine"]))


def _merit(epoch: Epoch) -> str:
    """Say how good an epoch is."""
    if epoch.top1 is not None:
        return f"top-1 {epoch.top1:.2%}"
    return f"agreement {epoch.agreement:.2%}" if epoch.agreement is not None else f"loss {epoch.loss:.4g}"


def _say_how_to_go_on(options: dict[str, Any]) -> None:
    """Say how to resume what was interrupted, where there is something to resume."""
    run = options["resume"] or options["output"]
    if run is not None and (run / "state.safetensors").exists():
        validation = ["--validation", str(options["validation"])] if options["validation"] else []
        again = ["edgeresnext", "train", str(options["data"]), *validation, "--resume", str(run)]
        console.hint("Go on with:", shlex.join(again))


def _line(epoch: Epoch) -> None:
    """Print one epoch."""
    learned = "before training" if epoch.loss is None else f"loss {epoch.loss:.4f}"
    judged = "" if epoch.validation_loss is None else f"  validation {epoch.validation_loss:.4f}"
    say(f"epoch {epoch.epoch:3}  {learned}{judged}  {_merit(epoch)}  {epoch.seconds:.1f} s")


def _silent(_epoch: Epoch) -> None:
    """Print nothing."""
