"""Python and the packages: in the ranges that this package asks for, none known to be bad, none hidden by another file.

Ranges are read from the package's own installed metadata, which is `pyproject.toml`; bad releases from
`known_vulnerable.toml`. Nothing is imported, so that what is broken can still be named.
"""

from __future__ import annotations

import importlib.util
import platform
import tomllib
from collections.abc import Iterator
from importlib import metadata, resources
from itertools import chain
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from babygpt.doctor.findings import Finding, fault, ok, warning

__all__ = ["check_origins", "check_packages", "check_python"]

_DAMAGED = (InvalidVersion, KeyError, TypeError)
_NAMED = ("torch", "transformers", "lightning")
# What a file of the user's own has hidden before; each is imported under its package's name.
_COULD_BE_HIDDEN = (
    "datasets", "lightning", "numpy", "pyarrow", "rich", "safetensors", "tokenizers", "torch", "transformers",
)  # fmt: skip


def check_python() -> Iterator[Finding]:
    """Whether this Python is one that the package takes."""
    here = platform.python_version()
    try:
        about = metadata.metadata("babygpt")
        # Its type has no get.
        wanted = about["Requires-Python"] if "Requires-Python" in about else ""  # noqa: SIM401
    except metadata.PackageNotFoundError:
        wanted = ""
    if Version(here) in SpecifierSet(wanted, prereleases=True):
        yield ok("python", f"{here} ({platform.system()}, {platform.machine()})")
    else:
        yield fault("python", f"{here} is outside {wanted}", f"Install Python {wanted}, and BabyGPT in it")


def check_packages() -> Iterator[Finding]:
    """Whether what is installed is what is asked for, and no bad release."""
    try:
        wanted = _requirements("babygpt")
    except metadata.PackageNotFoundError:
        yield warning(
            "packages",
            "babygpt runs from its source files and is not installed, so that its ranges are not known",
            "Install it: pip install -e . in its folder",
        )
        return
    holes = _holes()
    found = [*chain.from_iterable(_judge(each, holes) for each in wanted), *_bad_further_away(wanted, holes)]
    yield from found
    yield from _quarrels(wanted, {each.about for each in found})
    if not found:
        named = ", ".join(f"{name} {metadata.version(name)}" for name in _NAMED)
        yield ok("packages", f"{named} and {len(wanted) - len(_NAMED)} more are in their ranges")


def _requirements(package: str) -> list[Requirement]:
    """What a package asks for here, without its extras.

    Raises:
        PackageNotFoundError: it is not installed.
    """
    every = map(Requirement, metadata.requires(package) or ())
    return [r for r in every if r.marker is None or r.marker.evaluate({"extra": ""})]


def _judge(requirement: Requirement, holes: list[dict[str, str]]) -> Iterator[Finding]:
    name, mend = requirement.name, f'pip install "{requirement.name}{requirement.specifier}"'
    try:
        version = Version(metadata.version(name))
    except metadata.PackageNotFoundError:
        yield fault(name, "is not installed", mend)
        return
    except _DAMAGED as error:
        yield fault(name, f"its installation is damaged: {error}", f"{mend} --force-reinstall")
        return
    bad = _hole_in(name, version, holes)
    if bad is not None:
        yield fault(name, bad, mend)
    elif not requirement.specifier.contains(version, prereleases=True):
        yield fault(name, f"{version} is installed, and {requirement.specifier} is needed", mend)


def _holes() -> list[dict[str, str]]:
    text = resources.files("babygpt").joinpath("known_vulnerable.toml").read_text(encoding="utf-8")
    holes: list[dict[str, str]] = tomllib.loads(text)["hole"]
    return holes


def _hole_in(name: str, version: Version, holes: list[dict[str, str]]) -> str | None:
    """What is wrong with a release, if it is known to be bad."""
    for hole in holes:
        same = canonicalize_name(hole["package"]) == canonicalize_name(name)
        if same and version in SpecifierSet(hole["affected"], prereleases=True):
            return f"{version} has a known hole ({hole['id']}): {hole['what']}"
    return None


def _bad_further_away(wanted: list[Requirement], holes: list[dict[str, str]]) -> Iterator[Finding]:
    """Bad releases of what this package does not import itself: other packages may, or may not."""
    direct = {canonicalize_name(r.name) for r in wanted}
    for name in dict.fromkeys(hole["package"] for hole in holes):
        try:
            version = Version(metadata.version(name))
        except (metadata.PackageNotFoundError, *_DAMAGED):
            continue
        bad = _hole_in(name, version, holes)
        if bad is not None and canonicalize_name(name) not in direct:
            yield warning(name, bad, f"pip install -U {name}")


def _quarrels(wanted: list[Requirement], known: set[str]) -> Iterator[Finding]:
    """What the packages themselves ask for and do not get, but for what is known to be wrong itself."""
    for package in wanted:
        try:
            inner = _requirements(package.name)
        except metadata.PackageNotFoundError:
            continue
        for requirement in (each for each in inner if each.name not in known):
            try:
                version = metadata.version(requirement.name)
            except metadata.PackageNotFoundError:
                version = "none"
            if version == "none" or not requirement.specifier.contains(version, prereleases=True):
                yield warning(
                    package.name,
                    f"asks for {requirement.name}{requirement.specifier}, and {version} is installed",
                    f'pip install "{requirement.name}{requirement.specifier}"',
                )


def check_origins() -> Iterator[Finding]:
    """Whether each heavy package would be imported from where it is installed."""
    hidden = False
    for name in _COULD_BE_HIDDEN:
        try:
            installed = metadata.distribution(name)
            spec = importlib.util.find_spec(name)
        except (metadata.PackageNotFoundError, ImportError, ValueError):
            continue
        origin = Path(spec.origin).resolve() if spec is not None and spec.origin else None
        home = Path(str(installed.locate_file(""))).resolve()
        if origin is None or home in origin.parents or installed.read_text("direct_url.json"):
            continue  # installed from a folder, it lies where its developer keeps it
        hidden = True
        yield fault(
            name,
            f"{origin} hides the installed package",
            "Rename it, or take its folder out of PYTHONPATH and run elsewhere",
        )
    if not hidden:
        yield ok("imports", "no file hides an installed package")
