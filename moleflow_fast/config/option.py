"""An option as a field of a dataclass: parser, identity, --extend, sweeps and reports read what stands here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any


class Scope(Enum):
    """What an option decides, and when it may be given anew."""

    RESULT = auto()
    """The numbers of a run: part of what it is."""
    DEVICE = auto()
    """Rounding alone: part of what a run is, but a finished one takes another with `--extend` and `--remove`."""
    MACHINE = auto()
    """No number. Given anew with `--resume`, `--extend` and `--remove`."""
    RUN = auto()
    """No number, but what a run is called, and how it begins. Given anew with `--resume` alone."""


class Comparison(Enum):
    """What a report makes of two runs in which an option differs."""

    DEPARTURE = auto()
    """Two configurations that differ in the option's factor."""
    PROTOCOL = auto()
    """The same; and one of them does not repeat the published experiments."""
    EQUIVALENT = auto()
    """Two configurations; but both repeat the published experiments, which know no such option."""
    GROUP = auto()
    """Two that are not compared."""
    CIRCUMSTANCE = auto()
    """Two runs of one configuration."""


class Work(Enum):
    """What an option decides of the work that a run is."""

    KERNELS = auto()
    """Which kernels are launched, and so how long a step takes."""
    TIME = auto()
    """How long steps take, with the same kernels."""
    NONE = auto()
    """Neither, or too little to count."""


@dataclass(frozen=True)
class Bound:
    """What a value must be, in words that follow the option's name, and as a test."""

    words: str
    holds: Callable[[Any], bool]


def at_least(least: float) -> Bound:
    return Bound(f"must be at least {least}", lambda value: value >= least)


POSITIVE = Bound("must be positive", lambda value: value > 0)
WEIGHT = Bound("must lie in [0, 1]", lambda value: 0.0 <= value <= 1.0)
FRACTION = Bound("is a fraction in (0, 1]", lambda value: 0.0 < value <= 1.0)
ODD = Bound("must be an odd number of patches", lambda value: value >= 1 and value % 2 == 1)


@dataclass(frozen=True)
class Environment:
    """A variable that decides where no option is given; `given` reads it, None where it is not set."""

    variable: str
    given: Callable[[], str | None]


@dataclass(frozen=True)
class Option:
    """All that is known of an option but its name and type, which are the field's.

    Attributes:
        group: heading of `--help` under which it stands; None: commands write it, no command line gives it.
        default: also the value of runs that were stored before the option was.
        help: what the option is; of a switch, what `--NAME` does (none: there is no such argument).
        off: of a switch, what `--no_NAME` does (none: there is no such argument).
        evaluate: what `evaluate` says of it; none: it cannot be given there.
        choices: the possible values.
        bounds: what a value must be.
        command_line: the value of a command line that does not say; None: the default.
        demo: the same for the demo set.
        environment: where the default comes from, if it is set there.
        scope: what it decides, and when it may be given anew.
        is_path: whether it names a place: alike where spellings lead to the same one, and stored in full.
        decided_by_sweep: whether a sweep gives it to its runs, and nobody else may.
        work: what it decides of the work that a run is.
        factor: what reports call it in tables of factors, alone or with others; none: its name.
        component: in place of `factor`, the component of the method that it switches or shapes.
        comparison: what reports make of runs in which it differs.
        acts_with: another option, and the value of that with which this one acts; None: it always does.
    """

    group: str | None
    default: Any
    help: str = ""
    off: str = ""
    evaluate: str = ""
    choices: tuple[str, ...] = ()
    bounds: tuple[Bound, ...] = ()
    command_line: Any = None
    demo: Any = None
    environment: Environment | None = None
    scope: Scope = Scope.RESULT
    is_path: bool = False
    decided_by_sweep: bool = False
    work: Work = Work.KERNELS
    factor: str = ""
    component: str = ""
    comparison: Comparison = Comparison.DEPARTURE
    acts_with: tuple[str, Any] | None = None

    @property
    def is_identity(self) -> bool:
        """Whether runs with different values are different runs."""
        return self.scope in (Scope.RESULT, Scope.DEVICE)

    @property
    def outlives_its_run(self) -> bool:
        """Whether a finished run may be changed with another value."""
        return self.scope in (Scope.DEVICE, Scope.MACHINE)

    def check(self, name: str, value: Any) -> None:
        """Raise ValueError, beginning with `name`, unless `value` is possible; None, for left out, always is."""
        if value is None:
            return
        for one in value if isinstance(value, tuple) else (value,):
            if self.choices and one not in self.choices:
                raise ValueError(f"{name} must be one of {', '.join(self.choices)}, got {one!r}")
        for bound in self.bounds:
            if not bound.holds(value):
                raise ValueError(f"{name} {bound.words}, got {value}")


def option(group: str | None, default: Any, help: str = "", *bounds: Bound, **facts: Any) -> Any:
    """A field of a dataclass; `facts` are attributes of `Option`."""
    made = Option(group, default, help, bounds=bounds, **facts)
    if made.environment is None:
        return dataclasses.field(default=default, metadata={Option: made})
    given = made.environment.given
    return dataclasses.field(default_factory=lambda: given() or default, metadata={Option: made})


def options_in(cls: type) -> Mapping[str, Option]:
    """The options that are fields of a dataclass, by name."""
    return {field.name: field.metadata[Option] for field in dataclasses.fields(cls) if Option in field.metadata}


def check_options(values: Any, dashes: str = "") -> None:
    """Raise ValueError unless every option of a dataclass is possible by itself; `dashes` stand before its name."""
    for name, option in options_in(type(values)).items():
        option.check(dashes + name, getattr(values, name))
