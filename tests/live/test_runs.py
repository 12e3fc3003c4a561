"""The pages of all runs in a folder: each shows the newest checkpoint."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from shapedreamer.live.runs import make_runs_app
from shapedreamer.models import zoo
from shapedreamer.training.loop import train
from tests.tiny import TINY
from tests.watching import eager, no_threads_left, set_message

pytest.importorskip("starlette", reason="needs the extra 'web'")
pytest.importorskip("httpx2", reason="needs the extra 'dev'")
from starlette.testclient import TestClient, WebSocketTestSession


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run "mine", and the checkpoint of a later step beside it."""
    folder = tmp_path_factory.mktemp("runs")
    train(TINY, folder / "mine", max_minutes=0, sample_every=0)
    shutil.copytree(folder / "mine", folder / "later" / "mine")
    train(TINY, folder / "later" / "mine", resume=True, max_minutes=0, sample_every=0)
    return folder


@contextmanager
def serving(folder: Path, refresh: Any = lambda: None) -> Iterator[TestClient]:
    with no_threads_left(), TestClient(make_runs_app(folder, refresh, eager), base_url="http://dreams") as client:
        yield client


def frame(viewer: WebSocketTestSession) -> bytes:
    """The first frame of a seed."""
    viewer.send_text(set_message(1, model="mine", num=1, label="none").model_dump_json(exclude_none=True))
    return viewer.receive_bytes()


def test_the_index_links_to_runs_and_shipped_models(trained: Path) -> None:
    with serving(trained) as client:
        text = client.get("/").text
        assert '<a href="runs/mine/">mine</a>' in text
        assert all(f'<a href="runs/{name}/">' in text for name in zoo.names())


def test_a_run_has_the_whole_live_page(trained: Path) -> None:
    with serving(trained) as client:
        assert client.get("/runs/mine", follow_redirects=False).headers["location"].endswith("/runs/mine/")
        page = client.get("/runs/mine/")
        assert "page/app.js" in page.text
        assert "content-security-policy" in page.headers
        assert client.get("/runs/mine/page/app.js").status_code == 200
        assert [model["name"] for model in client.get("/runs/mine/models.json").json()] == ["mine"]
        headers = {"origin": "https://modal.example"}
        with client.websocket_connect("/runs/mine/ws", headers=headers) as viewer:
            assert viewer.receive_json()["viewers"] == 1
            assert len(frame(viewer)) > 32 * 32


def test_opening_the_page_again_shows_the_newest_checkpoint(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "mine", tmp_path / "mine")
    stored = tmp_path / "mine" / "checkpoints" / "latest.safetensors"
    with serving(tmp_path) as client:
        client.get("/runs/mine/")
        with client.websocket_connect("/runs/mine/ws") as old:
            old.receive_json()
            before = frame(old)
            shutil.copyfile(trained / "later" / "mine" / "checkpoints" / "latest.safetensors", stored)
            with client.websocket_connect("/runs/mine/ws") as viewer:  # of the page that is open
                assert viewer.receive_json()["viewers"] == 2
            client.get("/runs/mine/")
            with client.websocket_connect("/runs/mine/ws") as viewer:
                assert viewer.receive_json()["viewers"] == 1
                assert frame(viewer) != before
            old.send_json({"type": "step"})  # goes on with its own checkpoint
            assert old.receive_bytes() != before


def test_every_opening_refreshes_the_folder_first(trained: Path, tmp_path: Path) -> None:
    with serving(tmp_path, refresh=lambda: shutil.copytree(trained, tmp_path, dirs_exist_ok=True)) as client:
        assert client.get("/runs/mine/").status_code == 200


def test_shipped_models_have_a_page(tmp_path: Path) -> None:
    with serving(tmp_path) as client:
        assert client.get("/runs/shapes-turbo/").status_code == 200


@pytest.mark.parametrize("path", ["other", "other/ws", "%2e%2e", "..%2Fmine", "later", "mine%2Fcheckpoints"])
def test_what_is_not_a_run_is_not_found(trained: Path, path: str) -> None:
    with serving(trained) as client:
        answer = client.get(f"/runs/{path}/")
        assert answer.status_code == 404
        assert str(trained) not in answer.text


def test_a_damaged_checkpoint_is_an_error_that_says_so(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "mine", tmp_path / "mine")
    latest = tmp_path / "mine" / "checkpoints" / "latest.safetensors"
    latest.write_bytes(latest.read_bytes()[:-1])
    with serving(tmp_path) as client:
        answer = client.get("/runs/mine/")
        assert answer.status_code == 404
        assert "is damaged" in answer.text
