"""The method's switches: which component is on, in which mode, with which strength.

Field names and defaults are those of the published implementation, so that its recorded
configurations (and `--ablation_preset` names) keep their meaning.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from moleflow_fast.config.option import FRACTION, ODD, WEIGHT, Work, at_least, check_options, option

METHOD = "method and ablations"  # heading of --help
ADAPTER_MODES = ("whitening", "whitening_no_ln", "soft_ln", "standard", "no_ln", "no_ln_after_task0", "gaussian")
SPATIAL_CONTEXT_MODES = ("depthwise", "depthwise_residual", "local_stats", "full")
ROUTER_COVARIANCES = ("published", "class_ledoit_wolf", "pooled")
SCORE_AGGREGATION_MODES = ("percentile", "top_k", "top_k_percent", "max", "mean", "spatial_cluster")

_method = partial(option, METHOD)
_scoring = partial(option, METHOD, factor="aggregation", work=Work.NONE)


@dataclass
class Switches:
    """The fields that decide something, and what they must be."""

    use_lora: bool = _method(
        True, off="no LoRA adapters (and no task biases): later tasks share the frozen base", component="lora"
    )
    use_router: bool = _method(
        True,
        off="evaluate with the true task id instead of routing by prototypes",
        component="router",
        work=Work.NONE,
    )
    use_task_adapter: bool = _method(True, off="no input adapter per task", component="adapter")
    use_pos_embedding: bool = _method(True, off="no 2-D sinusoidal positions", component="positions")
    use_task_bias: bool = _method(True, off="no bias per task in the LoRA layers", component="task_bias")
    use_mahalanobis: bool = _method(
        True,
        off="route by Euclidean instead of Mahalanobis distance",
        component="mahalanobis",
        acts_with=("use_router", True),
    )
    router_covariance: str = _method(
        "published",
        "covariance that routing distances are measured with: each task's own with 1e-5 on its diagonal (published), "
        "each task's own, shrunk by Ledoit and Wolf's rule, or one within-task covariance of all tasks, shrunk alike "
        "(pooled), which errs least with few images",
        choices=ROUTER_COVARIANCES,
        component="mahalanobis",
        acts_with=("use_mahalanobis", True),
    )

    adapter_mode: str = _method(
        "whitening",
        "input adapter; 'gaussian' is estimated in one pass and takes the place of spatial mixing too; another one "
        "than 'whitening' implies --no_whitening_adapter",
        choices=ADAPTER_MODES,
        component="whitening",
        acts_with=("use_whitening_adapter", False),
    )
    use_whitening_adapter: bool = _method(
        True,
        "whitening input adapter (the default)",
        off="use the adapter named by --adapter_mode, or soft_ln",
        component="whitening",
        acts_with=("use_task_adapter", True),
    )
    soft_ln_init_scale: float = _method(
        0.01,
        "start of the LayerNorm blend of the soft_ln adapter",
        component="whitening",
        acts_with=("adapter_mode", "soft_ln"),
    )
    front_directions: int = _method(
        32,
        "adapter 'gaussian': directions kept at each position; 0 keeps its mean alone",
        at_least(0),
        acts_with=("adapter_mode", "gaussian"),
    )

    use_dia: bool = _method(
        True,
        "a small invertible flow per task after the base flow (the default)",
        off="no small flow per task",
        component="dia",
    )
    dia_n_blocks: int = _method(
        2, "coupling blocks in each task's own flow", at_least(1), factor="dia_blocks", acts_with=("use_dia", True)
    )
    dia_hidden_ratio: float = _method(
        0.5, "hidden width of those blocks, as a fraction of embed_dim", acts_with=("use_dia", True)
    )

    use_spatial_context: bool = _method(True, off="no spatial mixing before the flow", component="spatial")
    spatial_context_mode: str = _method(
        "depthwise_residual",
        "spatial mixer before the flow",
        choices=SPATIAL_CONTEXT_MODES,
        acts_with=("use_spatial_context", True),
    )
    spatial_context_kernel: int = _method(
        3,
        "its kernel, in patches (odd)",
        ODD,
        factor="spatial_kernel",
        acts_with=("use_spatial_context", True),
    )
    use_scale_context: bool = _method(True, off="scale network without neighbourhood context", component="scale")
    scale_context_kernel: int = _method(
        3,
        "context kernel of the scale network, in patches (odd)",
        ODD,
        factor="scale_kernel",
        acts_with=("use_scale_context", True),
    )
    scale_context_init_scale: float = _method(
        0.1, "initial strength of that context", acts_with=("use_scale_context", True)
    )
    scale_context_max_alpha: float = _method(
        0.2, "largest strength of that context", acts_with=("use_scale_context", True)
    )

    lambda_logdet: float = _method(
        3e-5, "weight of mean(logdet^2) in the loss", command_line=1e-5, factor="logdet_weight", work=Work.NONE
    )
    use_tail_aware_loss: bool = _method(
        False, "add the top-k patches of an image to the loss", factor="tail_loss", work=Work.NONE
    )
    tail_weight: float = _method(
        0.3,
        "weight of the tail in the tail-aware loss",
        WEIGHT,
        factor="tail_loss",
        acts_with=("use_tail_aware_loss", True),
        work=Work.NONE,
    )
    tail_top_k_ratio: float = _method(
        0.05,
        "fraction of an image's patches that make its tail",
        FRACTION,
        factor="tail_loss",
        acts_with=("use_tail_aware_loss", True),
        work=Work.NONE,
    )

    score_aggregation_mode: str = _scoring("percentile", "patch scores to image score", choices=SCORE_AGGREGATION_MODES)
    score_aggregation_percentile: float = _scoring(
        0.99, "fraction for mode percentile", FRACTION, acts_with=("score_aggregation_mode", "percentile")
    )
    score_aggregation_top_k: int = _scoring(
        10, "patches for mode top_k", at_least(1), acts_with=("score_aggregation_mode", "top_k")
    )
    score_aggregation_top_k_percent: float = _scoring(
        0.05, "fraction for mode top_k_percent", FRACTION, acts_with=("score_aggregation_mode", "top_k_percent")
    )
    cluster_weight: float = _scoring(
        0.5,
        "weight of clustered patches in mode spatial_cluster",
        WEIGHT,
        acts_with=("score_aggregation_mode", "spatial_cluster"),
    )
    cluster_high_score_percentile: float = _scoring(
        0.9,
        "quantile above which a patch is high in spatial_cluster",
        FRACTION,
        acts_with=("score_aggregation_mode", "spatial_cluster"),
    )

    use_regular_linear: bool = _method(
        False, "V6 NoLoRA: full layers per task instead of LoRA", component="regular_linear"
    )
    use_task_separated: bool = _method(False, "V6 TaskSeparated: a whole flow per task", component="separated")
    use_spectral_norm: bool = _method(False, "V6 SpectralNorm: normalise the base weights", component="spectral")
    no_freeze_base: bool = _method(
        False, "sequential training: the base goes on learning, and forgets", component="freeze"
    )

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Raise ValueError, naming the fields, unless the values are possible and go together."""
        check_options(self)
        if not 0.0 < self.scale_context_init_scale < self.scale_context_max_alpha:
            raise ValueError(
                "scale_context_init_scale must lie strictly between 0 and scale_context_max_alpha, got "
                f"{self.scale_context_init_scale} and {self.scale_context_max_alpha}"
            )
        if self.use_regular_linear and self.use_spectral_norm:
            raise ValueError("use_regular_linear and use_spectral_norm exclude each other: choose one")
        if self.has_front and self.use_spectral_norm:
            raise ValueError("after a Gaussian front couplings begin with weights of 0, which have no spectral norm")

    @property
    def effective_adapter_mode(self) -> str:
        """The adapter that is built: `use_whitening_adapter` wins over `adapter_mode`; soft_ln if neither names one."""
        if self.use_whitening_adapter:
            return "whitening"
        return "soft_ln" if self.adapter_mode == "whitening" else self.adapter_mode

    @property
    def has_front(self) -> bool:
        """Whether each task has a Gaussian front, which is estimated and not trained."""
        return self.use_task_adapter and self.effective_adapter_mode == "gaussian"

    @property
    def has_mixer(self) -> bool:
        """Whether patches are mixed with their neighbours: not after a front, as mixing has no log-determinant."""
        return self.use_spatial_context and not self.has_front

    @property
    def warnings(self) -> list[str]:
        """Switches that other switches leave without effect."""
        inert = [name for name in ("use_regular_linear", "use_spectral_norm") if getattr(self, name)]
        found = []
        if self.use_scale_context:
            found += [f"--{name} has no effect with the scale context: add --no_scale_context" for name in inert]
        if self.router_covariance != "published" and not self.use_mahalanobis:
            found.append(f"--router_covariance {self.router_covariance} has no effect with --no_mahalanobis: drop one")
        return found
