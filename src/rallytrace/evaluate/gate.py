"""Whether a network may take a stage of the registry: good enough, and no worse than the one that has it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rallytrace import registry
from rallytrace.errors import InputError
from rallytrace.evaluate.run import evaluate_clips
from rallytrace.registry import ModelVersion
from rallytrace.runtime import load_network
from rallytrace.types import Clip

MIN_F1 = 0.5
TOLERANCE = "4@288"


def promote_if_better(
    where: str | Path,
    wanted: str,
    stage: str,
    clips: Callable[[], Sequence[Clip]],
    min_f1: float = MIN_F1,
    on_score: Callable[[ModelVersion, float], None] | None = None,
) -> ModelVersion:
    """Promote `wanted` where its F1 (4@288) on `clips` is at least `min_f1` and that of the present version.

    Both are scored here, on the same clips: figures that trainings kept are of other data. clips: gives clips that
    neither was trained on; not asked where `min_f1` is 0 and the stage has no version. on_score: told each figure.
    Raises InputError for one that is refused, and what `evaluate_clips` raises.
    """
    version = registry.find(where, wanted)
    scores: dict[str, float] = {}

    def score(one: ModelVersion) -> float:
        if one.version not in scores:
            network = load_network(registry.fetch(where, f"{one.name}@{one.version}"))
            counts = evaluate_clips(network, clips()).total.counts
            scores[one.version] = next(
                each.f1 or 0.0 for tolerance, each in counts.items() if str(tolerance) == TOLERANCE
            )
            if on_score:
                on_score(one, scores[one.version])
        return scores[one.version]

    def check(now: ModelVersion | None) -> None:
        if now is not None and now.version == version.version:
            return
        if min_f1 > 0 and score(version) < min_f1:
            raise _refused(version, stage, f"F1 {scores[version.version]:.3f}, expected {min_f1:g} or more (--min-f1)")
        if now is not None and score(version) < score(now):
            both = f"F1 {scores[version.version]:.3f}, and {now.version}, which has it, {scores[now.version]:.3f}"
            raise _refused(version, stage, both)

    return registry.promote(where, f"{version.name}@{version.version}", stage, check)


def _refused(version: ModelVersion, stage: str, why: str) -> InputError:
    return InputError(f"{version.name}@{version.version} does not become {stage}: on the same clips it has {why}")
