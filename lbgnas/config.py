"""Settings of a search and of an evaluation: schema, presets, and errors that name the key. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from lbgnas.errors import LbgnasError, unknown

PRESETS = Path(__file__).parent / "presets"


class Settings(BaseModel):
    """Frozen settings that refuse unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class NetworkSettings(Settings):
    """How large networks are."""

    cells: int = Field(8, ge=3, le=64)
    """Cells of the single network; each of K experts gets max(3, ceil(cells / K) + 1)."""
    channels: int = Field(16, ge=4, le=1024)
    """Channels of the first cell."""


class SupernetSettings(Settings):
    """How large the supernets are."""

    cells: int | None = Field(None, ge=3, le=64)
    """Cells of the single supernet (in the first stage); each of K experts gets max(3, ceil(cells / K) + 1).
    None: as the search space says."""
    channels: int = Field(16, ge=4, le=1024)
    """Channels of the first cell."""


def _listed(value: object) -> object:
    """Take "0,6,12" from the command line as a list."""
    return value.split(",") if isinstance(value, str) else value


class StageSettings(Settings):
    """What changes from stage to stage of P-DARTS, one entry each; the other bases have one stage, the first."""

    added_cells: Annotated[tuple[int, ...], BeforeValidator(_listed)] = (0, 6, 12)
    """Added to the single supernet's cells."""
    added_channels: Annotated[tuple[int, ...], BeforeValidator(_listed)] = (0, 0, 0)
    """Added to the channels of the first cell."""
    skip_dropout: Annotated[tuple[float, ...], BeforeValidator(_listed)] = (0.0, 0.4, 0.7)
    """Probability with which entries of plain skips are dropped when a stage begins to learn A."""

    @field_validator("skip_dropout")
    @classmethod
    def _probabilities(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 <= prob < 1 for prob in value):
            raise ValueError("each must be at least 0 and below 1")
        return value


class AuxiliarySkipSettings(Settings):
    """The auxiliary skip of DARTS-; without effect on the other bases."""

    decay: Literal["linear", "cosine", "slow-cosine", "constant"] = "linear"
    """How its weight falls over the epochs."""
    weight: float = Field(1.0, ge=0)
    """Its weight at the start."""


class WeightSettings(Settings):
    """SGD of the experts' weights, with a cosine schedule."""

    rate: float = Field(0.025, gt=0)
    rate_min: float = Field(0.001, ge=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    decay: float = Field(3e-4, ge=0)
    clip: float = Field(5.0, gt=0)
    """Largest norm of one expert's gradient."""


class GateSettings(Settings):
    """The gate and its SGD."""

    rate: float = Field(0.05, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    decay: float = Field(3e-4, ge=0)
    width: int = Field(16, ge=4, le=512)
    """Channels of its first convolution."""
    mutual_information: float = Field(1.0, ge=0)
    """Weight of the term that asks for sharp decisions and used groups; 0 is the paper's words."""
    scouts: int = Field(8, ge=0, le=64)
    """Short trials with small experts, every other one without that term; the best on validation starts gate and C.
    0: a random start."""
    scout_epochs: int = Field(5, ge=1)
    """Epochs of each scout."""


class AssignmentSettings(Settings):
    """How the rows of C's logits Z move."""

    optimizer: Literal["adam", "sgd"] = "adam"
    rate: float = Field(0.1, gt=0)
    scale: float = Field(1e-3, ge=0)
    """Of the random start."""
    frozen: bool = False
    """Leave C at its start, to see what learning it adds."""


class ArchitectureSettings(Settings):
    """Adam of the architectures A_k."""

    rate: float | None = Field(None, gt=0)
    """None: the base's own."""
    decay: float = Field(1e-3, ge=0)
    warmup: float | None = Field(None, ge=0, le=1)
    """Share of the epochs of each stage with A frozen; None: the base's own."""


class DataOptions(Settings):
    """What some data sets can be told beside name and size; None keeps their own default."""

    rho: float | None = Field(None, ge=0, le=1)
    """P(attribute = label) in the pool of coloured-fashion-mnist, marked-fashion-mnist, coloured-cifar10."""
    balanced: float | None = Field(None, ge=0, lt=1)
    """Share of their pool, all in the validation half of a search, where the attribute tells nothing of the label."""
    target: str | None = None
    """The attribute of celeba that is to be told; by default Attractive."""
    sensitive: str | None = None
    """The sensitive attribute: of celeba (by default Male), or a column of --attributes."""
    attributes: str | None = None
    """CSV file of sensitive attributes for a folder: the column file, and one for each attribute."""
    split_scheme: Literal["official", "paper"] | None = None
    """Of celeba and isic18; by default official."""
    skip_bad_images: bool = False
    """Try every image file first, and leave out those that cannot be read."""

    @property
    def options(self) -> DataOptions:
        """These options alone."""
        return DataOptions(**{name: getattr(self, name) for name in DataOptions.model_fields})


class LevelSettings(DataOptions):
    """How the three levels are taken; of every run that learns groups."""

    hypergradient: Literal["exact", "fd", "first-order"] = "exact"
    """How second-order terms are taken; fd: finite differences as in the bases' own code."""
    adaptation: Literal["mmd", "mmd-literal", "coral", "kl", "cdd"] = "mmd"
    """The distance that dalbg adds to level 2."""
    adaptation_weight: float = Field(0.1, ge=0)
    """lambda."""
    expert_balance: Literal["none", "class"] = "none"
    """class: in level 2, and in the training of the experts after it, classes weigh the same inside each group."""
    third_level: Literal["routed", "mixture"] = "routed"
    """routed: Eq. 9; mixture: likelihood of the soft mixture, each validation sample through every expert."""
    assignments: AssignmentSettings = AssignmentSettings()


class SearchSettings(LevelSettings):
    """Everything a search depends on."""

    base: Literal["darts", "pdarts", "pcdarts", "darts-"] = "darts"
    """The search method whose supernet each expert is."""
    space: str | None = None
    """Name of a search space, or a YAML file of your own. None: the base's own."""
    grouping: Literal["none", "lbg", "dalbg"] = "none"
    """none: the base alone; lbg: Learning by Grouping; dalbg: with domain adaptation."""
    num_experts: int = Field(2, ge=1, le=8)
    """K; with grouping none always 1."""
    memory: Literal["fast", "low"] = "fast"
    """low: keep for the backward what enters each cell alone, and compute cells a second time."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """What experts compute in; bfloat16 halves the memory, weights and statistics stay float32; not with fd."""
    order: Literal["reference", "shared"] | None = None
    """Of a step: reference (the bases' own, grouping none only) or shared (one virtual step, no second pass)."""
    literal: bool = False
    """The paper's words: no scouts, no information term, plain SGD on C, mmd as printed, no balance, Eq. 9."""
    data: str = "coloured-digits"
    """NAME or NAME:PATH; docs/data.md lists the names."""
    image_size: int | None = Field(None, ge=8, le=1024)
    """Resize images to this side."""
    limit: int | None = Field(None, ge=20)
    """Use only so many images, for a quick trial."""
    epochs: int = Field(50, ge=1)
    """Epochs of each stage; P-DARTS has three stages, the other bases one."""
    max_skips: int | None = Field(None, ge=0)
    """Skip connections that a normal cell may have. None: the base's own, 2 for P-DARTS and any number for others."""
    batch_size: int = Field(64, ge=2)
    seed: int = Field(0, ge=0)
    network: SupernetSettings = SupernetSettings()
    stages: StageSettings = StageSettings()
    auxiliary_skip: AuxiliarySkipSettings = AuxiliarySkipSettings()
    weights: WeightSettings = WeightSettings()
    gate: GateSettings = GateSettings()
    architecture: ArchitectureSettings = ArchitectureSettings()

    @property
    def experts(self) -> int:
        """K, 1 without grouping."""
        return 1 if self.grouping == "none" else self.num_experts

    @property
    def in_force(self) -> SearchSettings:
        """These settings, with the paper's words in place of our additions if `literal` asks for them."""
        if not self.literal:
            return self
        return self.model_copy(
            update={
                "gate": self.gate.model_copy(update={"mutual_information": 0.0, "scouts": 0}),
                "assignments": self.assignments.model_copy(update={"optimizer": "sgd"}),
                "adaptation": "mmd-literal" if self.adaptation == "mmd" else self.adaptation,
                "expert_balance": "none",
                "third_level": "routed",
            }
        )


class EvaluationSettings(DataOptions):
    """Everything the training of a genotype's networks depends on."""

    genotype: str = ""
    """A genotype file, or the name of a published one."""
    data: str | None = None
    """NAME or NAME:PATH; by default what the search used, with its options."""
    image_size: int | None = Field(None, ge=8, le=1024)
    """Resize images to this side; by default as in the search."""
    limit: int | None = Field(None, ge=20)
    """Use only so many images, for a quick trial."""
    epochs: int = Field(600, ge=1)
    """Of each expert, over its own samples: K times as many cost about what one network of equal size costs."""
    batch_size: int = Field(96, ge=2)
    seed: int = Field(0, ge=0)
    layers: int | None = Field(None, ge=3, le=64)
    """Cells of each expert; by default about 1/K of the single network's parameters."""
    channels: int | None = Field(None, ge=4, le=1024)
    """Channels of each expert's first cell; by default the single network's."""
    network: NetworkSettings = NetworkSettings(cells=20, channels=36)
    """The single network that K experts together are as large as."""
    weights: WeightSettings = WeightSettings(rate_min=0.0)
    auxiliary_weight: float = Field(0.4, ge=0)
    drop_path: float = Field(0.2, ge=0, lt=1)
    """Largest drop-path probability, reached linearly."""
    cutout: int = Field(16, ge=0)
    """Side of the square cut out of training images, in pixels."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    ensemble: int | None = Field(None, ge=2, le=8)
    """Bagging of one architecture: so many networks, each on a bootstrap sample; the soft mixture is their answer."""
    expert_balance: Literal["none", "class"] | None = None
    """class: every class weighs the same inside each expert's group; by default as in the search."""
    stem: Literal["cifar", "imagenet"] | None = None
    """By default that of the space of the search."""
    compile: bool = False
    """Compile the networks' training (torch.compile): a minute or more at first, then faster steps."""


Schema = TypeVar("Schema", bound=Settings)


def preset_names() -> tuple[str, ...]:
    """Return the shipped presets."""
    return tuple(sorted(path.stem for path in PRESETS.glob("*.yaml")))


def load_preset(
    name: str, section: Literal["search", "evaluation", "groups"], base: str | None = None
) -> dict[str, Any]:
    """Return one section of a preset, with what it says of one base.

    Args:
        name: the preset.
        section: which tool it is for.
        base: the base to be searched with; None: the default one.

    Raises:
        LbgnasError: for an unknown name.
    """
    if name not in preset_names():
        raise unknown("preset", name, preset_names(), "--preset")
    found = read_yaml(PRESETS / f"{name}.yaml").get(section, {})
    assert isinstance(found, dict)
    own = found.pop("bases", {}).get(str(base or SearchSettings.model_fields["base"].default), {})
    return merged(found, own)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds one mapping.

    Raises:
        LbgnasError: if it cannot be read or holds something else.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LbgnasError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise LbgnasError(f"{path}: cannot be read as YAML ({' '.join(str(error).split())[:160]})") from None
    if not isinstance(raw, dict):
        raise LbgnasError(f"{path}: holds no mapping of settings")
    return raw


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested settings where `above` wins.

    Example:
        >>> merged({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}})
        {'a': {'b': 3, 'c': 2}}
    """
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


def validated(schema: type[Schema], values: Mapping[str, Any], where: str) -> Schema:
    """Return settings, or say in one sentence which key is wrong.

    Args:
        schema: the class of settings.
        values: nested mapping.
        where: file or flag the values came from.

    Raises:
        LbgnasError: names the place, the key, what was given and what is allowed.

    Example:
        >>> validated(SearchSettings, {"epoch": 3}, "my.yaml")
        Traceback (most recent call last):
        lbgnas.errors.LbgnasError: my.yaml: unknown key 'epoch'; allowed are ...; did you mean 'epochs'?
    """
    try:
        return schema(**values)
    except ValidationError as error:
        raise _sentence(schema, error, where) from None
    except TypeError:
        raise LbgnasError(f"{where}: keys must be names") from None


def _sentence(schema: type[Settings], error: ValidationError, where: str) -> LbgnasError:
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    if first["type"] == "extra_forbidden":
        owner: Any = schema
        for part in path[:-1]:
            owner = owner.model_fields[part].annotation
        return unknown(
            "key",
            path[-1],
            owner.model_fields,
            ".".join([where + ":", *path[:-1]]).replace(":.", ": ").rstrip(":"),
        )
    if first["type"] == "literal_error":
        owner = schema
        for part in path:
            owner = owner.model_fields[part].annotation
        choices = [str(choice) for choice in _choices(owner)]
        return unknown(path[-1].replace("_", "-"), first["input"], choices, f"{where}: {'.'.join(path)}")
    message = first["msg"][0].lower() + first["msg"][1:]
    return LbgnasError(f"{where}: {'.'.join(path)}: {first['input']!r} is not allowed; {message}")


def _choices(annotation: Any) -> list[Any]:
    inner = getattr(annotation, "__args__", ())
    return [
        c for part in inner for c in (_choices(part) if hasattr(part, "__args__") else [part]) if c is not type(None)
    ]


def to_yaml(settings: Settings) -> str:
    """Return settings as YAML, in the order of their declaration."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)
