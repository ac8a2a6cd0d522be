"""The verb `doctor`: settings in, findings out; whatever is broken, it says so and goes on.

1. What needs no library: Python, packages, variables, memory, clock, compiler, folders.
2. Tiny numeric runs in a process of their own (`numerics`), and torch.compile in another while the hub is asked.
3. The self-checks on the recipe and data, where some are given and the libraries work.

Nothing here imports torch before 2 has shown that it can be imported. Cost: about ten seconds, of which half are the
imports, and the first time as long again for torch.compile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from babygpt.data.cache import default_cache
from babygpt.doctor import environment, network, places, system, versions
from babygpt.doctor.findings import Diagnosis, Finding, fault
from babygpt.doctor.numerics import started
from babygpt.errors import InputError
from babygpt.machine_settings import DoctorSettings

__all__ = ["doctor"]

_OUT = "Choose another folder with --out"
_CACHE = "Choose another folder with the variable BABYGPT_CACHE"


def doctor(settings: DoctorSettings) -> Diagnosis:
    """Looks at this computer, and at a recipe if one is given."""
    return Diagnosis(tuple(_findings(settings)))


def _findings(settings: DoctorSettings) -> Iterator[Finding]:
    for about, check in _light_checks(settings):
        yield from _guarded(about, check)
    with started("numerics") as probe:
        numeric = probe.findings()
    yield from numeric
    works = not any(each.status == "fault" for each in numeric)
    compiles = works and not environment.compiling_is_off()
    if compiles:
        with started("compile") as probe:
            yield from _guarded("hub", network.check_network)
            yield from probe.findings()
    else:
        yield from _guarded("hub", network.check_network)
    yield from _guarded("token", network.check_token)
    if settings.names_a_recipe and works:
        yield from _own(settings)


def _light_checks(settings: DoctorSettings) -> Iterator[tuple[str, Callable[[], Iterable[Finding]]]]:
    yield "python", versions.check_python
    yield "packages", versions.check_packages
    yield "imports", versions.check_origins
    yield "environment", environment.check_variables
    yield "memory", system.check_memory
    yield "file limits", system.check_limits
    yield "clock", system.check_clock
    yield "encoding", system.check_encoding
    yield "compiler", system.check_compiler
    yield "run folder", lambda: places.check_place("run folder", Path(settings.out or "runs"), _OUT)
    yield "cache", lambda: places.check_place("cache", default_cache(), _CACHE)


def _guarded(about: str, check: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """A check's findings; what it did not foresee is one of them."""
    try:
        return list(check())
    except InputError as error:
        where = f"{error.where}: " if error.where else ""
        return [fault(about, f"{where}{error.what}", error.hint or "Mend it")]
    except Exception as error:
        return [fault(about, f"the check itself failed: {type(error).__name__}: {error}", "Please report it")]


def _own(settings: DoctorSettings) -> Iterator[Finding]:
    from babygpt.doctor.own import check_recipe

    yield from check_recipe(settings)
