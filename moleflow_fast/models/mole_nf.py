"""The continual normalizing flow: one shared base, and an expert per task.

x -> input adapter or Gaussian front of t -> spatial mixer -> base flow with the LoRA of t -> DIA of t -> z, log|det J|.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from moleflow_fast import runner_registry
from moleflow_fast.config.ablation import BARE_MODEL_CONFIG, AblationConfig
from moleflow_fast.models import published_format
from moleflow_fast.models.adapters import (
    FeatureStatistics,
    GaussianFront,
    SpatialContextMixer,
    create_task_adapter,
)
from moleflow_fast.models.coupling import CouplingFlow
from moleflow_fast.models.dia import DeepInvertibleAdapter
from moleflow_fast.models.expert import Expert, FlowModules
from moleflow_fast.models.flow_runner import FlowRunner
from moleflow_fast.models.lora_linear import LoRALinear
from moleflow_fast.models.subnets import MoLEContextSubnet, MoLESubnet
from moleflow_fast.ops.density import patch_nll


class MoLESpatialAwareNF(nn.Module):
    """Normalizing flow over patch features (B, H, W, D) with low-rank experts per task.

    Args:
        embed_dim: D.
        coupling_layers: blocks of the base flow; 0 leaves the task flows (DIA) alone.
        clamp_alpha: bound of the log-scales.
        lora_rank, lora_alpha: rank and scale of the LoRA parts.
        ablation_config: switches; None means the published bare model (soft_ln adapter, no DIA).
        runner: runs the flow; None means the one that the package has registered, which is compiled.
    """

    _anchor: Tensor

    def __init__(
        self,
        embed_dim: int = 512,
        coupling_layers: int = 8,
        clamp_alpha: float = 1.9,
        lora_rank: int = 32,
        lora_alpha: float = 1.0,
        device: torch.device | str = "cpu",
        ablation_config: AblationConfig | None = None,
        runner: FlowRunner | None = None,
    ) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.coupling_layers = coupling_layers
        self.clamp_alpha = clamp_alpha
        self.lora_rank = lora_rank
        self.lora_alpha = lora_alpha
        self.config = ablation_config or BARE_MODEL_CONFIG
        self.feature_statistics = FeatureStatistics(device)
        self.current_task_id: int | None = None
        self.task_ids: list[int] = []
        self.class_to_task: dict[int, int] = {}
        # New experts take on this empty tensor's device and dtype; a flow of zero blocks has no other to ask.
        self.register_buffer("_anchor", torch.empty(0), persistent=False)

        self.flow = self._new_flow(expert_layers=True)
        self.flow.requires_grad_(True)
        self._set_global_affine_trainable(self.flow, False)
        self.input_adapters = nn.ModuleDict()
        self.dia_adapters = nn.ModuleDict()
        self.task_flows = nn.ModuleDict()
        self.spatial_mixer: SpatialContextMixer | None = None
        if self.config.has_mixer:
            self.spatial_mixer = SpatialContextMixer(
                embed_dim, self.config.spatial_context_mode, self.config.spatial_context_kernel
            )
        self.runner: FlowRunner = runner or runner_registry.new_runner()
        self.to(device)

    @property
    def device(self) -> torch.device:
        return self._anchor.device

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> MoLESpatialAwareNF:
        """The statistics, which are no parameters, move with the model."""
        super()._apply(fn, recurse)
        self.feature_statistics.to(self.device)
        return self

    # -- tasks ---------------------------------------------------------------------------------------

    def add_task(self, task_id: int) -> None:
        """Create the expert of a task and make the task active; a task that exists is only made active."""
        if task_id not in self.task_ids:
            self._create_expert(task_id)
            self.task_ids.append(task_id)
        self.set_active_task(task_id)

    def set_active_task(self, task_id: int | None) -> None:
        """Choose the expert used by `forward`; None means the base alone.

        Raises:
            KeyError: a task that was never added.
        """
        self.require_known(task_id)
        self.current_task_id = task_id
        for block in self.flow.module_list:
            block.subnet.set_active_task(task_id)  # type: ignore[union-attr, operator]

    def require_known(self, task_id: int | None) -> None:
        """Raise KeyError for a task that was never added."""
        if task_id is not None and task_id not in self.task_ids:
            raise KeyError(f"task {task_id} is unknown; known tasks: {self.task_ids}")

    def freeze_all_base(self) -> None:
        """Freeze everything that tasks share: base flow, context convolutions, mixer."""
        self.flow.requires_grad_(False)
        for layer in self._base_layers():
            layer.freeze_base()
        if self.spatial_mixer is not None:
            self.spatial_mixer.requires_grad_(False)
        for task_id in self.task_ids:
            self.unfreeze_fast_params(task_id)

    def freeze(self) -> None:
        """Nothing trains any more, until a task begins; only then are packed weights kept from call to call."""
        self.freeze_all_base()
        self.requires_grad_(False)
        self.eval()

    def unfreeze_all_base(self) -> None:
        """Let the shared parts train again (sequential training), all but the global scale and offset."""
        self.flow.requires_grad_(True)
        self._set_global_affine_trainable(self.flow, False)
        for layer in self._base_layers():
            layer.unfreeze_base()
        if self.spatial_mixer is not None:
            self.spatial_mixer.requires_grad_(True)

    def get_fast_params(self, task_id: int) -> list[nn.Parameter]:
        """What a later task trains: its LoRA parts and biases, input adapter and DIA."""
        prefixes = (f"input_adapters.{task_id}.", f"dia_adapters.{task_id}.")
        suffixes = tuple(f".{store}.{task_id}" for store in ("lora_A", "lora_B", "task_biases"))
        own_layers = f".task_layers.{task_id}."
        return [
            parameter
            for name, parameter in self.named_parameters()
            if name.startswith(prefixes)
            or (name.startswith("flow.") and (name.endswith(suffixes) or own_layers in name))
        ]

    def get_trainable_params(self, task_id: int) -> list[nn.Parameter]:
        """What `task_id` trains: everything but the other tasks' experts for the first task, the fast
        parameters for later ones, and with `use_task_separated` also the task's own flow."""
        if task_id == 0 or self.config.no_freeze_base:
            own = {id(p) for p in self.get_fast_params(task_id)}
            expert = {id(p) for t in self.task_ids for p in self.get_fast_params(t)}
            return [p for p in self.parameters() if p.requires_grad and (id(p) in own or id(p) not in expert)]
        if str(task_id) in self.task_flows:
            return [*self.task_flows[str(task_id)].parameters(), *self.get_fast_params(task_id)]
        return self.get_fast_params(task_id)

    def get_base_params_for_slow_update(self, k: int = 2) -> list[nn.Parameter]:
        """Base weights and biases of the last `k` coupling blocks (the slow stage)."""
        chosen = list(self.flow.module_list)[-k:] if k > 0 else []
        layers = [m for block in chosen for m in block.modules() if isinstance(m, LoRALinear)]
        return [p for layer in layers for p in layer.base_linear.parameters()]

    def unfreeze_last_k_blocks(self, k: int = 2) -> None:
        """Freeze the base, and let the base weights of the last `k` coupling blocks train."""
        self.freeze_all_base()
        for parameter in self.get_base_params_for_slow_update(k):
            parameter.requires_grad_(True)

    def freeze_fast_params(self, task_id: int) -> None:
        """Keep a task's expert as it is."""
        for parameter in self.get_fast_params(task_id):
            parameter.requires_grad_(False)

    def unfreeze_fast_params(self, task_id: int) -> None:
        """Let a task's expert train."""
        for parameter in self.get_fast_params(task_id):
            parameter.requires_grad_(True)

    # -- what the published model is asked besides ------------------------------------------------------

    @property
    def ablation_config(self) -> AblationConfig:
        """The switches."""
        return self.config

    @property
    def subnets(self) -> list[nn.Module]:
        """The network of each coupling block of the base flow."""
        return [block.subnet for block in self.flow.module_list]  # type: ignore[misc]

    @property
    def reference_stats(self) -> FeatureStatistics:
        """Mean and deviation of the first task's features with positions."""
        return self.feature_statistics

    def add_class(self, class_id: int, class_name: str, task_id: int) -> None:
        """Create the expert of the task that a class belongs to, and make it active; classes have none of their own."""
        self.class_to_task[class_id] = task_id
        self.add_task(task_id)

    def set_active_class(self, class_id: int | None) -> None:
        """Choose the expert of a class's task.

        Raises:
            KeyError: a class that was never added.
        """
        self.set_active_task(None if class_id is None else self.class_to_task[class_id])

    def get_trainable_params_for_class(self, class_id: int) -> list[nn.Parameter]:
        """What the task of a class trains."""
        return self.get_trainable_params(self.class_to_task[class_id])

    def get_active_adapter_key(self) -> str:
        """Under which name the active expert's parts are stored; "0" without one."""
        return str(self.current_task_id or 0)

    def get_context_info(self) -> dict[str, float]:
        """Mean, least and largest strength of the scale context over the blocks; empty without one."""
        alphas = [float(net.context_strength()) for net in self.subnets if isinstance(net, MoLEContextSubnet)]
        if not alphas:
            return {}
        return {"alpha_mean": sum(alphas) / len(alphas), "alpha_min": min(alphas), "alpha_max": max(alphas)}

    # -- reference statistics ------------------------------------------------------------------------

    def update_reference_stats(self, features: Tensor) -> None:
        """Take in features with positions (..., D) of the first task."""
        self.feature_statistics.update(features)

    def finalize_reference_stats(self) -> None:
        """From now on new tasks know that reference statistics exist."""
        self.feature_statistics.finalize()

    # -- Gaussian fronts -----------------------------------------------------------------------------

    def front(self, task_id: int | None) -> GaussianFront | None:
        """The Gaussian front of a task, None where its adapter is another one."""
        key = str(task_id)
        adapter = self.input_adapters[key] if key in self.input_adapters else None
        return adapter if isinstance(adapter, GaussianFront) else None

    # -- the map and its density ---------------------------------------------------------------------

    def forward(self, x: Tensor, reverse: bool = False) -> tuple[Tensor, Tensor]:
        """The map of the active task and its log-determinant.

        Args:
            x: patches with positions added, (B, H, W, D); with `reverse` the latent z.

        Returns:
            z (B, H, W, D) and log|det| (B, H, W) of flow, DIA and Gaussian front. With `reverse` the true inverse
            (DIA first, then the flow, then the front), and the inverse's log-determinant: other adapters and the
            mixer are not inverted, the result is then the flow's input.

        Raises:
            ValueError: x is not (B, H, W, embed_dim).
        """
        if x.dim() != 4 or x.shape[-1] != self.embed_dim:
            raise ValueError(f"expected patches (B, H, W, {self.embed_dim}), got {tuple(x.shape)}")
        if reverse:
            return self._inverse(x)
        return self._run(self.current_task_id, x)

    def forward_as(self, task_id: int | None, x: Tensor) -> tuple[Tensor, Tensor]:
        """`forward` under the expert of `task_id`, whichever task is active: several threads may call it at once.

        Raises:
            KeyError: a task that was never added.
        """
        self.require_known(task_id)
        return self._run(task_id, x)

    def nll_as(self, task_id: int | None, x: Tensor, conditioned: bool = False) -> Tensor:
        """-log p per patch (B, H, W) under the expert of `task_id`, less the constant of a Gaussian front.

        The front's log-determinant tells places apart, not images: with it the mean image AUROC of five real
        products falls from .822 to .820.

        Args:
            conditioned: x is what `condition` gave.

        Raises:
            KeyError: a task that was never added.
        """
        self.require_known(task_id)
        expert = self.expert(task_id)
        return patch_nll(*self.runner.forward(expert.flow, x if conditioned else expert.condition(x)))

    def _run(self, task_id: int | None, x: Tensor) -> tuple[Tensor, Tensor]:
        expert, front = self.expert(task_id), self.front(task_id)
        z, logdet = self.runner.forward(expert.flow, expert.condition(x))
        return z, logdet if front is None else logdet + front.logdet()

    def expert(self, task_id: int | None) -> Expert:
        """The modules that act for a task."""
        key = str(task_id)
        base = self.task_flows[key] if key in self.task_flows else self.flow
        dia = self.dia_adapters[key] if key in self.dia_adapters else None
        adapter = self.input_adapters[key] if key in self.input_adapters else None
        return Expert(adapter, self.spatial_mixer, FlowModules(base, task_id, dia))  # type: ignore[arg-type]

    def experts(self, task_ids: Sequence[int]) -> list[Expert]:
        """The modules of several tasks."""
        return [self.expert(task_id) for task_id in task_ids]

    def condition(self, x: Tensor, task_id: int | None) -> Tensor:
        """Input adapter and spatial mixer of a task: what the flow takes in, (B, H, W, D)."""
        return self.expert(task_id).condition(x)

    def density_loss(
        self,
        x: Tensor,
        *,
        tail_weight: float | None,
        tail_top_k_ratio: float,
        lambda_logdet: float,
        conditioned: bool = False,
    ) -> Tensor:
        """`ops.density.density_loss` of flow and DIA for x (B, H, W, D).

        A Gaussian front's log-determinant is no part of it, because no parameter decides it.

        Args:
            conditioned: x is what `condition` gave.

        Raises:
            ValueError: as there.
        """
        expert = self.expert(self.current_task_id)
        return self.runner.loss(
            expert.flow,
            x if conditioned else expert.condition(x),
            tail_weight=tail_weight,
            tail_top_k_ratio=tail_top_k_ratio,
            lambda_logdet=lambda_logdet,
        )

    def log_prob_patch(self, x: Tensor) -> Tensor:
        """log p per patch (B, H, W) = -|z|^2 / 2 - D/2 ln(2 pi) + logdet."""
        return -patch_nll(*self(x))

    def log_prob(self, x: Tensor) -> Tensor:
        """log p per image (B,): the sum over its patches."""
        return self.log_prob_patch(x).sum((1, 2))

    def _inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        x, logdet = self.expert(self.current_task_id).flow.inverse(z)
        front = self.front(self.current_task_id)
        return (x, logdet) if front is None else (front.inverse(x), logdet - front.logdet())

    # -- state dicts ---------------------------------------------------------------------------------

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load our own or the published names; experts of tasks not yet known are created first.

        Permutations may be dense matrices, integer vectors (newer FrEIA) or our `perm_index`.
        """
        state = published_format.to_native(state_dict)
        for task_id in published_format.task_ids(state):
            if task_id not in self.task_ids:
                self.add_task(task_id)
        return super().load_state_dict(state, strict=strict, assign=assign)

    def reference_state_dict(self) -> dict[str, Tensor]:
        """The state under the published names, with dense `w_perm` and `w_perm_inv`, for a strict load there."""
        state = published_format.to_reference(self.state_dict())
        if not self.config.use_lora:
            return state
        return state | published_format.inert_adapters(state, self.lora_rank, self.config.use_task_bias)

    # -- construction --------------------------------------------------------------------------------

    def _create_expert(self, task_id: int) -> None:
        key, config = str(task_id), self.config
        statistics = self.feature_statistics
        reference = (None, None)
        if task_id > 0 and statistics.is_finalized:
            reference = (statistics.mean, statistics.std)  # type: ignore[assignment]
        separated = config.use_task_separated and task_id > 0
        if separated:
            self.task_flows[key] = self._new_flow(expert_layers=False).to(self._anchor)
        else:
            for block in self.flow.module_list:
                block.subnet.add_task_adapter(task_id)  # type: ignore[union-attr, operator]
        if config.use_task_adapter:
            self.input_adapters[key] = create_task_adapter(
                config.effective_adapter_mode,
                self.embed_dim,
                *reference,
                task_id=task_id,
                soft_ln_init_scale=config.soft_ln_init_scale,
                front_directions=config.front_directions,
            ).to(self._anchor)
        if config.use_dia:
            self.dia_adapters[key] = DeepInvertibleAdapter(
                self.embed_dim, task_id, config.dia_n_blocks, config.dia_hidden_ratio, self.clamp_alpha
            ).to(self._anchor)

    def _new_flow(self, expert_layers: bool) -> CouplingFlow:
        flow = CouplingFlow(
            self.embed_dim,
            self.coupling_layers,
            lambda dims_in, dims_out: self._new_subnet(dims_in, dims_out, expert_layers),
            self.clamp_alpha,
        )
        if self.config.has_front:  # white noise is what the flow shall give: it begins by passing it on
            for block in flow.module_list:
                block.subnet.begin_at_zero()  # type: ignore[union-attr, operator]
        return flow

    def _new_subnet(self, dims_in: int, dims_out: int, expert_layers: bool) -> nn.Module:
        config = self.config
        use_lora = config.use_lora and expert_layers
        use_task_bias = use_lora and config.use_task_bias
        lora = (self.lora_rank, self.lora_alpha, use_lora, use_task_bias)
        if config.use_scale_context:
            return MoLEContextSubnet(
                dims_in,
                dims_out,
                *lora,
                context_kernel=config.scale_context_kernel,
                context_init_scale=config.scale_context_init_scale,
                context_max_alpha=config.scale_context_max_alpha,
            )
        own_layers = config.use_regular_linear and expert_layers
        return MoLESubnet(
            dims_in,
            dims_out,
            *lora,
            use_regular_linear=own_layers,
            use_spectral_norm=config.use_spectral_norm,
        )

    def _base_layers(self) -> Iterator[LoRALinear]:
        return (module for module in self.flow.modules() if isinstance(module, LoRALinear))

    @staticmethod
    def _set_global_affine_trainable(flow: CouplingFlow, trainable: bool) -> None:
        for block in flow.module_list:
            block.global_scale.requires_grad_(trainable)
            block.global_offset.requires_grad_(trainable)
