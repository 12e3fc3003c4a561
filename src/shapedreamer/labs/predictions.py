"""Predictions: the learner says what will happen, then measures it, then sees both.

predict("lab4.steps", "?", a="the samples get worse", b="the samples stay as good")      # fill in "a" or "b"
predict.measured("lab4.steps", "b", f"error {coarse:.3f} with 25 steps, {fine:.3f} with 500")
"""

import contextlib
from typing import Any

from ..common.errors import UserError
from ..common.notebook import print_wrapped
from . import progress


class Predictions:
    """The predictions of this session, which are also stored in the learner's folder if there is one."""

    def __init__(self) -> None:
        self._said: dict[str, str] = {}
        self._choices: dict[str, dict[str, str]] = {}

    def __call__(self, name: str, letter: str, **choices: str) -> None:
        """Store a prediction. letter: one of the names of ``choices``, or "?" as long as the learner has not chosen."""
        self._choices[name] = choices
        letter = str(letter).strip().lower()
        if letter not in choices:
            listed = "\n".join(f"    {key}) {text}" for key, text in choices.items())
            letters = " or ".join([", ".join(list(choices)[:-1]), *list(choices)[-1:]])
            print(f'Your prediction? Replace "?" with {letters}.\n{listed}')
            return
        self._said[name] = letter
        if path := progress.folder():
            content = progress.read(path)
            content["predictions"].setdefault(name, letter)  # the first one counts
            with contextlib.suppress(UserError):
                progress.write(path, content)
        print(f"You predict {letter}) {choices[letter]}.")

    def measured(self, name: str, letter: str, evidence: str) -> None:
        """Compare the prediction with the measurement. evidence: the numbers, measured in the cell that calls this."""
        choices = self._choices.get(name, {})
        said = self._first(name)
        text = f"Measured: {evidence}. So {letter}) {choices.get(letter, '')}."
        if said is None:
            print_wrapped(f"{text} You have not predicted anything; try it for the next one.")
        elif said == letter:
            print_wrapped(f"{text} You predicted that.")
        else:
            print_wrapped(
                f"{text} You predicted {said}) {choices.get(said, '')}. What is different from what you expected?"
            )

    def _first(self, name: str) -> str | None:
        path = progress.folder()
        stored: Any = progress.read(path)["predictions"].get(name) if path else None
        return stored or self._said.get(name)


predict = Predictions()
