"""What is installed, what is missing, and the line to type."""

from __future__ import annotations

import os
import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

from diorama.metrics.claims import device_name


def examine() -> dict[str, Any]:
    """Python, packages, devices, extras, shipped checkpoints and the hub, as plain values."""
    import torch
    from huggingface_hub import constants

    from diorama.checkpoints import describe, miniature_names, miniatures_folder

    core, extras = requirements()
    packages = {name: installed(name) for name in core}
    found = {extra: {name: installed(name) for name in names} for extra, names in extras.items()}
    shipped = [describe(miniatures_folder() / name) for name in miniature_names()]
    return {
        "diorama": installed("diorama"), "python": platform.python_version(), "executable": sys.executable,
        "platform": platform.platform(), "packages": packages,
        "missing": [name for name, number in packages.items() if number is None],
        "devices": ["cpu", *(f"cuda:{i} ({device_name(f'cuda:{i}')})" for i in range(torch.cuda.device_count()))],
        "threads": torch.get_num_threads(), "cores": os.cpu_count(),
        "extras": {extra: {"packages": names, "installed": all(names.values()),
                           "install": None if all(names.values()) else f"pip install 'diorama[{extra}]'"}
                   for extra, names in found.items()},
        "miniatures": [{"name": item.folder.name, "parameters": item.parameters, "megabytes": round(item.megabytes, 1)}
                       for item in shipped],
        "hub": {"offline": constants.is_offline_mode(), "cache": str(constants.HF_HUB_CACHE)},
    }


def requirements() -> tuple[list[str], dict[str, list[str]]]:
    """The packages that diorama always needs, and those of each extra, from its own metadata."""
    core: list[str] = []
    extras: dict[str, list[str]] = {}
    for line in requires("diorama") or []:
        name = re.match(r"[\w.-]+", line)
        assert name is not None
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)", line)
        (extras.setdefault(extra[1], []) if extra else core).append(name[0])
    return core, extras


def installed(package: str) -> str | None:
    """The version of a package, None where it is absent; nothing is imported."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def told(found: dict[str, Any]) -> str:
    """The findings for a person."""
    lines = [f"diorama {found['diorama']}, Python {found['python']} ({found['executable']})", found["platform"], "",
             "packages:   " + ", ".join(f"{name} {number or 'MISSING'}" for name, number in found["packages"].items()),
             "devices:    " + ", ".join(found["devices"]),
             f"threads:    {found['threads']} of {found['cores']} cores (set OMP_NUM_THREADS to change it)", ""]
    for extra, content in found["extras"].items():
        state = "installed" if content["installed"] else f"not installed; type: {content['install']}"
        lines.append(f"extra {extra:8} {state} ({', '.join(content['packages'])})")
    lines += ["", "checkpoints that come with the package: " + (", ".join(
        f"{item['name']} ({item['parameters']:,} numbers, {item['megabytes']} MB)" for item in found["miniatures"])
        or "none")]
    hub = found["hub"]
    state = ("offline (HF_HUB_OFFLINE is set; unset it to download)" if hub["offline"]
             else "online (set HF_HUB_OFFLINE=1 to forbid downloads)")
    lines += [f"hub:        {state}", f"hub cache:  {hub['cache']}"]
    if found["missing"]:
        lines += ["", f"missing: {', '.join(found['missing'])}. Type: pip install {' '.join(found['missing'])}"]
    return "\n".join(lines)
