"""Train on a GPU of Modal (modal.com), and serve the live pages of the runs. docs/cloud.md explains it, and the prices.

modal run cloud/modal_app.py::train --recipe shapes --epochs 100 --batch-size 128
modal run cloud/modal_app.py::pull --run shapes      # copy the run to runs/shapes
modal deploy cloud/modal_app.py                      # the live page of each run, at /runs/NAME
"""

import sys
from pathlib import Path
from typing import Any

import modal
import torch

from shapedreamer.common.errors import UserError, exit_on_user_error
from shapedreamer.live.runs import make_runs_app
from shapedreamer.models.recipes import Recipe, get_recipe, with_overrides
from shapedreamer.models.transfer import receive_run
from shapedreamer.training import loop

ROOT, RUNS = Path(__file__).parents[1], Path("/runs")  # RUNS: where containers mount the volume

app = modal.App("shapedreamer")
volume = modal.Volume.from_name("shapedreamer", create_if_missing=True)


def make_image(extras: list[str], torch_options: str = "") -> modal.Image:
    """The pinned dependencies, and then the package, so that a change in it installs nothing again."""
    pins = "--constraint /constraints.txt"
    image = modal.Image.debian_slim("3.12").add_local_file(ROOT / "constraints.txt", "/constraints.txt", copy=True)
    image = image.uv_pip_install("torch", extra_options=f"{pins} {torch_options}".strip())
    image = image.pip_install_from_pyproject(str(ROOT / "pyproject.toml"), extras, extra_options=pins)
    image = image.env({"CUBLAS_WORKSPACE_CONFIG": ":4096:8"})  # with it, cuBLAS gives the same bits every time
    return image.add_local_python_source("shapedreamer", ignore=[])  # the default leaves out weights and page


@app.function(
    image=make_image(["track", "data"]),
    gpu=["L4", "T4", "A10"],  # the first that is free
    cpu=2,
    volumes={str(RUNS): volume},
    timeout=24 * 3600,  # seconds for each attempt
    retries=modal.Retries(max_retries=5, initial_delay=0.0),
    single_use_containers=True,
)
def train_run(recipe: Recipe, run: str) -> str | None:
    """Train a recipe in the volume, or resume the run there. Returns an error that a retry would not remove."""
    has_gpu = torch.cuda.is_available()
    torch.use_deterministic_algorithms(has_gpu, warn_only=True)
    print(f"training {run} on {torch.cuda.get_device_name() if has_gpu else 'the CPU'}", flush=True)
    resume = (RUNS / run / "checkpoints" / "latest.safetensors").exists()
    try:
        loop.train(recipe, RUNS / run, resume=resume, on_save=lambda path: path.stem == "latest" and volume.commit())
        volume.commit()  # the plots, which come after the last checkpoint
    except UserError as error:
        return f"error: {error}".replace("`out`", "--run")
    return None


@app.local_entrypoint()
def train(
    recipe: str,
    run: str = "",
    epochs: int | None = None,
    samples: int | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
    data: str = "",
    gpu: str = "",
) -> None:
    """Train in the cloud; the same command again resumes. --data is a path in the volume, --gpu one type of GPU."""
    with exit_on_user_error():
        settings = get_recipe(recipe, data=str(RUNS / data) if data else None)
        settings = with_overrides(settings, epochs=epochs, samples=samples, batch_size=batch_size, seed=seed)
    sys.exit((train_run.with_options(gpu=gpu) if gpu else train_run).remote(settings, run or recipe))


@app.local_entrypoint()
def pull(run: str, out: str = "runs") -> None:
    """Copy a run from the volume to the folder OUT/RUN, where `shapedreamer` samples from it and resumes it."""
    with exit_on_user_error():
        receive_run(Path(out), run, volume.iterdir, volume.read_file)


@app.function(
    image=make_image(["web"], "--torch-backend=cpu"),
    cpu=2,
    volumes={str(RUNS): volume},
    max_containers=1,  # for all viewers
    scaledown_window=60,
    timeout=3600,  # seconds for each connection; the page connects again
)
@modal.concurrent(max_inputs=500)
@modal.asgi_app()
def page() -> Any:
    """The live page of the newest checkpoint of each run, at /runs/NAME."""
    return make_runs_app(RUNS, refresh=volume.reload)
