"""Software bill of materials of a Python environment, as CycloneDX 1.6 in JSON: `python sbom.py DIRECTORY`.

The image has its own as `/opt/sidecar/sbom.cdx.json`.  Packages of the base image are in the bill that its builder
attests (`docker buildx build --sbom=true`).
"""

from __future__ import annotations

import json
import re
import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any


def component(found: Distribution) -> dict[str, Any]:
    """Return the component of an installed package, with its package URL, and its licence if it states an SPDX one."""
    name = re.sub(r"[-_.]+", "-", found.metadata["Name"]).lower()
    made: dict[str, Any] = {
        "type": "library",
        "name": name,
        "version": found.version,
        "purl": f"pkg:pypi/{name}@{found.version}",
        "bom-ref": f"pkg:pypi/{name}@{found.version}",
    }
    if expression := found.metadata.get("License-Expression"):
        made["licenses"] = [{"expression": expression}]
    return made


def bill(directory: Path) -> dict[str, Any]:
    """Return the bill of the packages in a virtual environment, in the order of their names."""
    paths = [str(path) for path in directory.glob("lib/python*/site-packages")]
    components = sorted(map(component, distributions(path=paths)), key=lambda each: str(each["name"]))
    return {"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "components": components}


if __name__ == "__main__":
    print(json.dumps(bill(Path(sys.argv[1])), indent=1))
