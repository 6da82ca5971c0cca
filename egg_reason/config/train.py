"""The settings of a training run: config.toml, the command line and the Python API at once."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from egg_reason.config.algorithms import ALGORITHMS, AlgorithmSettings, Eggroll, section_of
from egg_reason.config.sections import (
    EngineSettings,
    EvaluationSettings,
    ModelSettings,
    RewardSettings,
    RunSettings,
    SamplingSettings,
    TaskSettings,
)
from egg_reason.config.setting import Setting, checked, settings_of
from egg_reason.config.table import Sections, entries

__all__ = ["TrainConfig"]


@dataclass(frozen=True)
class TrainConfig(Sections):
    """Settings of a training run. The defaults are the demo: the bundled model learns Countdown on two CPU
    cores in minutes.

    Make one from flat names (the flags of `egg-reason train`), or from sections.

    >>> config = egg_reason.TrainConfig.of(steps=20, sigma=0.01, algorithm="openes")
    >>> config.run.steps, config.algorithm.sigma, config.replace(steps=30).run.steps
    (20, 0.01, 30)
    """

    COMMAND: ClassVar[str] = "egg-reason train"
    RENAMED: ClassVar[Mapping[str, str]] = {
        "vectors": "trainable=matrices,vectors",
        "embeddings": "trainable=matrices,embeddings",
    }

    model: ModelSettings = field(default_factory=ModelSettings)
    task: TaskSettings = field(default_factory=TaskSettings)
    rewards: RewardSettings = field(default_factory=RewardSettings)
    algorithm: AlgorithmSettings = field(default_factory=Eggroll)
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    run: RunSettings = field(default_factory=RunSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sampling.temperature is None:
            sampling = dataclasses.replace(self.sampling, temperature=self.algorithm.default_temperature)
            object.__setattr__(self, "sampling", sampling)  # frozen; the default depends on another section

    @property
    def temperature(self) -> float:
        """Temperature of training completions: the one given, or the algorithm's own."""
        assert self.sampling.temperature is not None  # see __post_init__
        return self.sampling.temperature

    @classmethod
    def section_types(cls) -> dict[str, type]:
        """Return the section classes by their names in a file: each algorithm has its own."""
        types: dict[str, type] = {}
        for name, kind in super().section_types().items():
            types |= ALGORITHMS if name == "algorithm" else {name: kind}
        return types

    @classmethod
    def known(cls) -> dict[str, tuple[Setting, list[str]]]:
        name = Setting("algorithm", str, Eggroll.name, ALGORITHM_HELP, tuple(ALGORITHMS))
        return {"algorithm": (name, [])} | super().known()

    @classmethod
    def of(cls, **flat: Any) -> Self:
        """Build settings from flat names; what is not named has the algorithm's default.

        Raises a one-line ValueError for an unknown name, a setting that the algorithm does not have, a value
        of another kind, and a value that cannot be.
        """
        flat = cls._checked(flat)
        known = cls.known()
        chosen = section_of(checked(known["algorithm"][0], flat.pop("algorithm", Eggroll.name)))
        own = {one.name for one in settings_of(chosen)}
        for name in flat:
            having = known[name][1]
            if having[0] in ALGORITHMS and name not in own:
                raise ValueError(
                    f"{name} is a setting of {' and '.join(having)}, which {chosen.name} does not have:"
                    " leave it out"
                )
        types = super().section_types() | {"algorithm": chosen}
        return cls(
            **{
                section: kind(**{one.name: flat[one.name] for one in settings_of(kind) if one.name in flat})
                for section, kind in types.items()
            }
        )

    def flat(self) -> dict[str, Any]:
        """Return every setting that the algorithm has, by its flat name, with its effective value."""
        return {"algorithm": self.algorithm.name} | super().flat()

    def to_table(self) -> dict[str, Any]:
        """Return the sections as TOML holds them: `algorithm = "eggroll"` at the top, its settings in
        [eggroll]."""
        flat = self.flat()
        table: dict[str, Any] = {"algorithm": self.algorithm.name}
        for section, kind in self.section_types().items():
            if section in ALGORITHMS and section != self.algorithm.name:
                continue
            values = {one.name: flat[one.name] for one in settings_of(kind) if flat[one.name] is not None}
            table[section] = {
                name: list(value) if isinstance(value, tuple) else value for name, value in values.items()
            }
        return table

    @classmethod
    def read_table(
        cls, table: Mapping[str, Any], source: str = "config.toml", algorithm: str = ""
    ) -> dict[str, Any]:
        """Return the settings that a table gives, by flat names. algorithm: one that is given elsewhere and
        counts more than the table's."""
        named = table.get("algorithm", Eggroll.name)
        chosen = algorithm or (named if isinstance(named, str) else "")
        for section, values in table.items():
            if section in ALGORITHMS and section != chosen and isinstance(values, Mapping):
                raise ValueError(
                    f"{source}: [{section}] is for the algorithm {section}, not for {chosen}: take the"
                    " section out,"
                    f' or choose algorithm = "{section}"'
                )
        return super().read_table(_with_trainable(table), source)


def _with_trainable(table: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a table with `trainable` in the place of the two switches of earlier versions, each of which is
    the name of a group too."""
    given = [(section, name, value) for section, name, value in entries(table) if name in TrainConfig.RENAMED]
    if not given or any(not isinstance(value, bool) for _, _, value in given):
        return table  # what is no switch is refused by name
    kept = {
        title: {name: value for name, value in entry.items() if name not in TrainConfig.RENAMED}
        if isinstance(entry, Mapping)
        else entry
        for title, entry in table.items()
        if title not in TrainConfig.RENAMED
    }
    groups = ["matrices", *sorted((name for _, name, value in given if value), reverse=True)]
    section = given[0][0]
    return kept | (
        {"trainable": groups} if section is None else {section: kept[section] | {"trainable": groups}}
    )


ALGORITHM_HELP = (
    "eggroll (evolution strategies, low-rank noise), openes (full-rank noise) or grpo (policy gradients)"
)
