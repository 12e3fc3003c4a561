"""The samplers of public libraries get the verdict that peers.py and docs/conformance.md give them.

Install them with ``pip install --no-deps``: those in the extra ``peers``, and denoising-diffusion-pytorch. Rows of a
library that is not installed are skipped. Most rows are slow; a few of each library run by default.
"""

import warnings
from importlib.util import find_spec
from pathlib import Path

import pytest

from shapedreamer import conformance as c
from tests.conformance.peers import MODULES, PEERS, Peer, table

FAST = ("DDIM", "EulerDiscrete", "euler", "heun", "dpmpp_2m", "samples", "DDIMSampler", "EulerSampler", "ddim_sample")
DOCS = Path(__file__).parents[2] / "docs" / "conformance.md"


@pytest.mark.parametrize(
    "peer",
    [
        pytest.param(peer, id=f"{peer.library} {peer.name}", marks=[] if peer.name in FAST else [pytest.mark.slow])
        for peer in PEERS
    ],
)
def test_a_public_sampler_gets_the_verdict_in_the_table(peer: Peer) -> None:
    if find_spec(MODULES[peer.library]) is None:  # importing it needs more, which peers.load provides
        pytest.skip(f"{peer.library} is not installed (extra: peers)")
    if peer.name == "LMSDiscrete" and find_spec("scipy") is None:
        pytest.skip("scipy is not installed (extra: peers)")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs
        report = c.check_sampler(peer.sampler)
    if not peer.mistake:
        report.raise_if_failed()
    else:
        assert report.failed
        assert any(peer.mistake in mistake for mistake in report.mistakes), str(report)


def test_the_documentation_shows_the_table() -> None:
    assert table() in DOCS.read_text(encoding="utf-8")
