"""cloud/modal_app.py: every function runs, with a folder as the volume, and its decorators are checked; no account."""

import importlib.util
import inspect
import re
import shlex
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from shapedreamer.common.errors import UserError
from shapedreamer.models.checkpoint import load_checkpoint
from shapedreamer.training.loop import train
from tests.models.test_transfer import Store
from tests.tiny import TINY as THREE_EPOCHS

modal = pytest.importorskip("modal", reason="needs the extra 'cloud'")
pytestmark = pytest.mark.filterwarnings("ignore:The .* function is executing locally:UserWarning")
TINY = replace(THREE_EPOCHS, epochs=2)
SCRIPT = Path(__file__).parents[2] / "cloud" / "modal_app.py"


class Volume(Store):
    """A folder in the place of the volume. It counts what was done with it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.commits: list[int] = []  # the step of each checkpoint that was committed
        self.reloads = 0
        self.preempt_at = -1  # the step at whose commit the container is stopped

    def commit(self) -> None:
        latest = next(self.folder.glob("*/checkpoints/latest.safetensors"))
        self.commits.append(load_checkpoint(latest).step)
        if self.commits[-1] == self.preempt_at:
            raise KeyboardInterrupt

    def reload(self) -> None:
        self.reloads += 1


def load_script(path: Path = SCRIPT) -> ModuleType:
    spec = importlib.util.spec_from_file_location("modal_app", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("MODAL_CONFIG_PATH", str(tmp_path / "no-account"))
    module = load_script()
    volume = Volume(tmp_path / "volume")
    volume.folder.mkdir()
    monkeypatch.setattr(module, "RUNS", volume.folder)
    monkeypatch.setattr(module, "volume", volume)
    return module


def files(run: Path) -> dict[str, bytes]:
    """What must be the same after a preemption: checkpoints, metrics and previews."""
    patterns = ("config.json", "metrics.jsonl", "checkpoints/*", "samples/*")
    return {path.relative_to(run).as_posix(): path.read_bytes() for p in patterns for path in run.glob(p)}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a run of TINY that was never preempted."""
    run = tmp_path_factory.mktemp("uninterrupted") / "mine"
    train(TINY, run)
    return files(run)


def test_it_is_short() -> None:
    assert len(SCRIPT.read_text(encoding="utf-8").splitlines()) < 100


def test_a_run_is_committed_after_every_checkpoint(script: ModuleType) -> None:
    assert script.train_run.local(TINY, "mine") is None
    assert script.volume.commits == [0, 4, 8, 8]
    assert {path.name for path in (script.RUNS / "mine").iterdir()} >= {"config.json", "metrics.jsonl", "samples"}


@pytest.mark.parametrize("step", [pytest.param(0, marks=pytest.mark.slow), 4, pytest.param(8, marks=pytest.mark.slow)])
def test_a_preempted_run_ends_in_the_same_bits(script: ModuleType, uninterrupted: dict[str, bytes], step: int) -> None:
    script.volume.preempt_at = step
    with pytest.raises(KeyboardInterrupt):
        script.train_run.local(TINY, "mine")
    script.volume.preempt_at = -1
    assert script.train_run.local(TINY, "mine") is None
    assert files(script.RUNS / "mine") == uninterrupted


def test_a_mistake_is_returned_because_a_retry_would_not_help(script: ModuleType) -> None:
    train(TINY, script.RUNS / "mine", max_minutes=0, sample_every=0)
    error = script.train_run.local(script.with_overrides(TINY, lr=0.5), "mine")
    assert error.startswith("error: ")
    assert "lr = 0.001, not 0.5" in error
    assert "choose another --run" in error


def test_a_failed_commit_is_raised_so_that_modal_retries(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("the volume is full")

    monkeypatch.setattr(script.volume, "commit", fail)
    with pytest.raises(RuntimeError, match="the volume is full"):
        script.train_run.local(TINY, "mine")


class Remote:
    """The function that `train` calls in the cloud. It records the calls."""

    def __init__(self, answer: str | None = None) -> None:
        self.answer, self.calls, self.gpu = answer, [], None  # type: tuple[str | None, list[Any], str | None]

    def with_options(self, *, gpu: str) -> "Remote":
        self.gpu = gpu
        return self

    def remote(self, *arguments: Any) -> str | None:
        self.calls.append(arguments)
        return self.answer


def test_train_makes_the_recipe_here_and_trains_it_there(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "train_run", remote := Remote())
    with pytest.raises(SystemExit) as end:
        script.train("shapes", epochs=100, batch_size=128)
    assert not end.value.code
    [(recipe, run)] = remote.calls
    assert (recipe.name, recipe.epochs, recipe.batch_size, run, remote.gpu) == ("shapes", 100, 128, "shapes", None)
    with pytest.raises(SystemExit):
        script.train("folder", run="mine", data="pictures", gpu="T4")
    recipe, run = remote.calls[1]
    assert (recipe.data.path, run, remote.gpu) == (str(script.RUNS / "pictures"), "mine", "T4")


def test_train_exits_with_the_error_of_the_cloud(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "train_run", Remote("error: the loss is no longer finite"))
    with pytest.raises(SystemExit) as end:
        script.train("shapes")
    assert end.value.code == "error: the loss is no longer finite"


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"recipe": "squares"}, "unknown recipe 'squares'"),
        ({"recipe": "shapes", "epochs": -1}, "epochs"),
        ({"recipe": "shapes", "data": "pictures"}, "draws its own images"),
        ({"recipe": "folder"}, "needs the folder of your images"),
    ],
)
def test_bad_options_cost_nothing(
    script: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: dict[str, Any],
    error: str,
) -> None:
    monkeypatch.setattr(script, "train_run", remote := Remote())
    with pytest.raises(SystemExit) as end:
        script.train(**options)
    assert end.value.code == UserError.exit_code
    assert remote.calls == []
    stderr = capsys.readouterr().err
    assert stderr.startswith("error: ")
    assert stderr.count("\n") == 1
    assert error in stderr


def test_a_pulled_run_resumes_at_home(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(TINY, script.RUNS / "mine", max_minutes=0, sample_every=0)
    script.pull("mine", out=str(tmp_path / "home"))
    assert files(tmp_path / "home" / "mine") == files(script.RUNS / "mine")
    train(TINY, tmp_path / "home" / "mine", resume=True, max_minutes=0, sample_every=0)
    assert load_checkpoint(tmp_path / "home" / "mine" / "checkpoints" / "latest.safetensors").step == 2
    with pytest.raises(SystemExit):
        script.pull("other", out=str(tmp_path / "home"))
    assert capsys.readouterr().err.endswith("error: there is no run 'other'; there are: mine\n")


def test_the_page_of_a_run_is_served(script: ModuleType) -> None:
    pytest.importorskip("httpx2", reason="needs the extra 'dev'")
    pytest.importorskip("starlette", reason="needs the extra 'web'")
    from starlette.testclient import TestClient

    train(TINY, script.RUNS / "mine", max_minutes=0, sample_every=0)
    with TestClient(script.page.local()) as client:
        assert "ShapeDreamer" in client.get("/runs/mine").text
        with client.websocket_connect("/runs/mine/ws") as viewer:
            assert [model["name"] for model in viewer.receive_json()["models"]] == ["mine"]
    assert script.volume.reloads > 0


# the decorators


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    """What the script calls in modal while it is imported: names and arguments, in order."""
    calls = []

    def record(owner: Any, name: str) -> None:
        function = getattr(owner, name)

        def recording(*args: Any, **kwargs: Any) -> Any:
            is_method = isinstance(owner, type)
            calls.append((name, args[1:] if is_method else args, kwargs))
            return function(*args, **kwargs)

        monkeypatch.setattr(owner, name, recording)

    record(modal.App, "function")
    for name in ("add_local_file", "uv_pip_install", "pip_install_from_pyproject", "env", "add_local_python_source"):
        record(modal.Image, name)
    record(modal, "concurrent")
    record(modal, "asgi_app")
    load_script()
    return calls


def test_training_survives_preemption(calls: Any) -> None:
    options = next(kwargs for name, _, kwargs in calls if name == "function")
    assert options["gpu"] == ["L4", "T4", "A10"]
    assert (options["retries"].max_retries, options["retries"].initial_delay.total_seconds()) == (5, 0)
    assert options["single_use_containers"]
    assert list(options["volumes"]) == ["/runs"]
    assert options["timeout"] == 24 * 3600


def test_one_container_serves_all_viewers_and_ends_soon_after_the_last(calls: Any) -> None:
    _, page = (kwargs for name, _, kwargs in calls if name == "function")
    assert page["max_containers"] == 1
    assert page["scaledown_window"] <= 60
    assert not page.get("min_containers")
    assert "gpu" not in page
    assert list(page["volumes"]) == ["/runs"]
    assert [kwargs["max_inputs"] for name, _, kwargs in calls if name == "concurrent"] == [500]
    assert [name for name, *_ in calls].count("asgi_app") == 1


def test_images_install_the_pins_first_and_the_package_last(calls: Any) -> None:
    steps = [call for call in calls if hasattr(modal.Image, call[0])]
    names = ["add_local_file", "uv_pip_install", "pip_install_from_pyproject", "env", "add_local_python_source"]
    assert [name for name, *_ in steps] == 2 * names
    for name, args, kwargs in steps:
        if name == "add_local_file":
            assert args == (SCRIPT.parents[1] / "constraints.txt", "/constraints.txt")
        elif "install" in name:
            assert kwargs["extra_options"].startswith("--constraint /constraints.txt")
        elif name == "add_local_python_source":
            assert (args, kwargs) == (("shapedreamer",), {"ignore": []})  # or weights and page would be missing
    torch = [kwargs["extra_options"] for name, _, kwargs in steps if name == "uv_pip_install"]
    assert ["--torch-backend=cpu" in options for options in torch] == [False, True]


def test_a_container_can_import_it_without_the_repository(tmp_path: Path) -> None:
    """Modal copies the file to /root; there is no constraints.txt, no pyproject.toml and no account."""
    copy = tmp_path / "root" / "modal_app.py"
    copy.parent.mkdir()
    copy.write_bytes(SCRIPT.read_bytes())
    module = load_script(copy)
    assert all(isinstance(function, modal.Function) for function in (module.train_run, module.page))


def test_the_commands_of_the_documentation_name_functions_and_their_options(script: ModuleType) -> None:
    texts = [path.read_text(encoding="utf-8") for path in (SCRIPT, SCRIPT.parents[1] / "docs" / "cloud.md")]
    commands = re.findall(r"^    modal run cloud/modal_app.py::(\w+)(.*)$", "\n".join(texts), flags=re.MULTILINE)
    assert {name for name, _ in commands} == {"train", "pull"}
    for name, options in commands:
        known = inspect.signature(getattr(script, name).info.raw_f).parameters
        words = shlex.split(options, comments=True)
        assert {word.removeprefix("--").replace("-", "_") for word in words[::2]} <= set(known)


def test_the_volume_of_these_tests_has_the_methods_of_modals() -> None:
    for name in ("commit", "reload", "iterdir", "read_file"):
        theirs, ours = (inspect.signature(getattr(owner, name)).parameters for owner in (modal.Volume, Volume))
        assert list(ours) == list(theirs)
