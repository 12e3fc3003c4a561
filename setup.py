"""Copies the labs from the folder labs/ of the repository into the package; the rest is in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithLabs(build_py):
    """Copies labs/lab*.py to shapedreamer/labs/sources in the wheel. An editable install reads the folder itself."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib, "shapedreamer", "labs", "sources")
        target.mkdir(parents=True, exist_ok=True)
        for path in Path(__file__).parent.glob("labs/lab*.py"):
            shutil.copyfile(path, target / path.name)


setup(cmdclass={"build_py": BuildWithLabs})
