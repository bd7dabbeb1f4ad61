"""Settings whose published runs failed or lost: a run with them warns and goes on."""

from __future__ import annotations

from moleflow_fast.config.options import RunOptions

_DEEPEST = 12  # 14 and more collapsed in every published run, 16 with DIA 4 to image AUROC .7341
_LEAST_TAIL = 0.3


def known_bad(options: RunOptions) -> list[str]:
    """Warnings with the published figures, image AUROC on MVTec AD."""
    ablation, found = options.ablation, []
    if options.num_coupling_layers > _DEEPEST and not ablation.has_front:
        found.append(
            f"--num_coupling_layers {options.num_coupling_layers}: published runs with 16 failed "
            "(.7341 instead of .9793); take 8 to 12, or --adapter_mode gaussian, behind which 16 hold"
        )
    if ablation.score_aggregation_mode == "percentile" and ablation.score_aggregation_percentile <= 0.95:
        found.append(
            f"--score_aggregation_percentile {ablation.score_aggregation_percentile:g}: the published run with 0.95 "
            "lost .0228; take 0.99 or --score_aggregation_mode top_k"
        )
    if ablation.use_tail_aware_loss and 0 < ablation.tail_weight < _LEAST_TAIL:
        found.append(
            f"--tail_weight {ablation.tail_weight:g}: published runs with 0.1 and 0.2 lost .0044 and .0014 against 0.3"
        )
    return found
