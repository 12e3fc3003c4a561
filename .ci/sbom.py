"""Print a software bill of materials: CycloneDX 1.6 in JSON, of the versions that constraints.txt pins.

    .venv/bin/python .ci/sbom.py > dist/sbom.cdx.json

It describes this machine's version of Python. The scope of a package is "required" if the installed package needs it
without extras, "optional" if it comes with an extra for users, and "excluded" if only tests and documentation need it.
The CUDA libraries of PyTorch's default build on Linux are not pinned, and so not listed. Equal pins and equal installed
packages give an equal file.
"""

import importlib.metadata
import json
import sys
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
DEVELOPMENT = {"dev", "docs", "peers"}  # extras that users of the package do not need


def read_pins(path: Path = ROOT / "constraints.txt") -> dict[str, str]:
    """The pinned version of each package, by canonical name, on this version of Python."""
    requirements = [Requirement(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    applicable = [r for r in requirements if r.marker is None or r.marker.evaluate()]
    return {canonicalize_name(r.name): next(iter(r.specifier)).version for r in applicable}


def dependencies_of(name: str) -> list[str]:
    """The packages that an installed package needs on this machine, without extras; none if it is not installed."""
    try:
        lines = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    requirements = map(Requirement, lines)
    return sorted(
        {canonicalize_name(r.name) for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})}
    )


def closure(requirements: Iterable[str]) -> set[str]:
    """The packages of these requirement lines, and all that they need."""
    waiting: list[str] = [canonicalize_name(Requirement(line).name) for line in requirements]
    found: set[str] = set()
    while waiting:
        if (name := waiting.pop()) not in found:
            found.add(name)
            waiting += dependencies_of(name)
    return found


def bill_of_materials() -> dict[str, Any]:
    """The document, as JSON values."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    pins = read_pins()
    required = closure(project["dependencies"])
    optional = closure(line for extra, lines in extras.items() if extra not in DEVELOPMENT for line in lines)
    subject = f"pkg:pypi/{project['name']}@{project['version']}"
    references = {name: f"pkg:pypi/{name}@{version}" for name, version in pins.items()}

    def component(name: str) -> dict[str, Any]:
        scope = "required" if name in required else "optional" if name in optional else "excluded"
        reference = references[name]
        described = {"bom-ref": reference, "type": "library", "name": name, "version": pins[name], "scope": scope}
        return described | {"purl": reference}

    needs: dict[str, list[str]] = {
        subject: [canonicalize_name(Requirement(line).name) for line in project["dependencies"]]
    }
    needs |= {references[name]: dependencies_of(name) for name in sorted(pins)}
    content: dict[str, Any] = {
        "metadata": {
            "component": {
                "bom-ref": subject,
                "type": "library",
                "name": project["name"],
                "version": project["version"],
                "licenses": [{"expression": project["license"]}],
                "purl": subject,
            }
        },
        "components": [component(name) for name in sorted(pins)],
        "dependencies": [
            {"ref": reference, "dependsOn": [references[name] for name in sorted(names) if name in references]}
            for reference, names in needs.items()
        ],
    }
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(content))
    head = {"bomFormat": "CycloneDX", "specVersion": "1.6", "serialNumber": f"urn:uuid:{serial}", "version": 1}
    return head | content


if __name__ == "__main__":
    json.dump(bill_of_materials(), sys.stdout, indent=2)
    print()
