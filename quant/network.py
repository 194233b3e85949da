"""The LIFFireNet family as networks that train on their integer grid (QAT)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import brevitas.config
import torch
from torch import Tensor, nn

from calib_data.encodings import COUNT_LIMIT
from models import TOPOLOGIES, LIFState, ModelConfig, SpikingFireNet
from quant.calibration import LayerCalibration, check_encoding
from quant.conversion import quantize
from quant.errors import QuantError
from quant.layers import GridSettings, LayerSettings, QuantConvLIF, QuantFlowHead
from quant.options import DEFAULT_OPTIONS, HEAD, QuantOptions
from quant.scales import Moments
from quant.spec import NetworkSpec


class QuantFireNet(nn.Module):
    """A network of the LIFFireNet family that trains on its integer grid.

    Args:
        config: as of :class:`models.SpikingFireNet`.
        layers: settings by layer name, all of them.
        head_bits: of the flow head's weights.
        settings: how scales and ranges are found.

    Raises:
        QuantError: voxel input, impossible bit widths, or layers that are not the network's.
    """

    def __init__(
        self,
        config: ModelConfig,
        layers: dict[str, LayerSettings],
        head_bits: int,
        settings: GridSettings,
    ) -> None:
        super().__init__()
        settings.check()
        topology = dict(TOPOLOGIES[config.model])
        if set(layers) != set(topology):
            raise QuantError(f"{config.model} has the layers {', '.join(topology)}")
        check_encoding(config)
        self.config, self.settings = config, settings
        self.checkpoint_sha256 = ""
        self.layers = nn.ModuleDict()
        fan_in = config.num_bins
        for name, recurrent in topology.items():
            self.layers[name] = QuantConvLIF(
                fan_in,
                config.channels,
                config.kernel_size,
                recurrent=recurrent,
                stride=1,
                reset=config.reset,
                x_max=1 if self.layers else COUNT_LIMIT,
                settings=layers[name],
                network=settings,
            )
            fan_in = config.channels
        self.pred = QuantFlowHead(config.channels, head_bits, settings.weight_scale)

    @classmethod
    def from_float(
        cls,
        model: SpikingFireNet,
        options: QuantOptions = DEFAULT_OPTIONS,
        calibration: dict[str, LayerCalibration] | None = None,
        moments: Moments | None = None,
        settings: GridSettings | None = None,
    ) -> QuantFireNet:
        """Start from a float network and what post-training quantization makes of it.

        With weight_scale "max" (and no scale search), ``spec()`` is then what
        :func:`quant.quantize` gives.

        Args:
            model: float network in canonical form.
            options, calibration, moments: as of :func:`quant.quantize`.
            settings: how scales and ranges are found from here on; the neuron is the options'.

        Raises:
            QuantError: as :func:`quant.quantize`; a scale search with weight_scale "max"; one scale
                per tensor; options and settings for different neurons.
        """
        settings = GridSettings(neuron=options.neuron) if settings is None else settings
        if settings.neuron != options.neuron:
            raise QuantError(
                f"options are for {options.neuron} neurons, settings for {settings.neuron} ones"
            )
        if options.scale_search and settings.weight_scale != "learned":
            raise QuantError("searched scales need weight_scale learned; max finds its own")
        if options.per_tensor:
            raise QuantError("training finds weight scales per channel; leave out per_tensor")
        spec = quantize(model, options, calibration, moments)
        start = {
            layer.name: LayerSettings(
                options.of(layer.name).weight_bits,
                layer.mem_bits,
                layer.frac_bits,
                layer.current_scale,
            )
            for layer in spec.layers
        }
        network = cls(model.config, start, options.of(HEAD).weight_bits, settings)
        network.checkpoint_sha256 = model.checkpoint_sha256
        for (_, layer), (_, source), derived in zip(
            network.named_layers(), model.named_layers(), spec.layers, strict=True
        ):
            layer.load_float(source, derived.conv.weight_scale)
        head = model.pred
        bias = torch.zeros(2) if head.bias is None else head.bias.detach()
        network.pred.conv.start_at(head.weight.detach(), bias, spec.head.weight_scale)
        return network

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """As of ``torch.nn.Module``; every parameter stays the object that an optimiser holds."""
        # Brevitas would build its quantizers anew, with parameters that nothing else knows.
        before = brevitas.config.REINIT_ON_STATE_DICT_LOAD
        brevitas.config.REINIT_ON_STATE_DICT_LOAD = False
        try:
            return super().load_state_dict(state_dict, strict, assign)
        finally:
            brevitas.config.REINIT_ON_STATE_DICT_LOAD = before

    def named_layers(self) -> list[tuple[str, QuantConvLIF]]:
        """The spiking layers in order."""
        return [(n, layer) for n, layer in self.layers.items() if isinstance(layer, QuantConvLIF)]

    def step(
        self, events: Tensor, states: dict[str, LIFState] | None = None
    ) -> tuple[Tensor, dict[str, LIFState]]:
        """Advance by one window.

        Args:
            events: [N, num_bins, H, W], event counts, at most 127.
            states: per layer, of the previous step; None for the zero state. Membranes are in
                integer units, or in real ones where the neurons are float.

        Returns:
            flow float32 [N, 2, H, W] in (-1, 1), and the new states, with integer neurons
            integer-valued float32.
        """
        x, new_states = self._spikes(events, {} if states is None else states)
        return self.pred(x), new_states

    def _spikes(self, x: Tensor, states: dict[str, LIFState]) -> tuple[Tensor, dict[str, LIFState]]:
        new_states = {}
        for name, layer in self.named_layers():
            x, new_states[name] = layer(x, states.get(name))
        return x, new_states

    def forward(
        self, events: Tensor, states: dict[str, LIFState] | None = None
    ) -> tuple[Tensor, dict[str, LIFState]]:
        """Same as :meth:`step`."""
        return self.step(events, states)

    def spec(self) -> NetworkSpec:
        """All integers of the network, as they are now.

        Raises:
            QuantError: sums that float32 does not hold exactly.
        """
        bits = [layer.settings.weight_bits for _, layer in self.named_layers()]
        spec = NetworkSpec(
            model=self.config.model,
            encoding=self.config.encoding,
            num_bins=self.config.num_bins,
            flow_scaling=self.config.flow_scaling,
            weight_bits=max(*bits, self.pred.conv.bits),
            layers=tuple(layer.spec(name) for name, layer in self.named_layers()),
            head=self.pred.spec(),
            checkpoint_sha256=self.checkpoint_sha256,
            neuron=self.settings.neuron,
        )
        if not spec.exact_in_float32():
            raise QuantError("sums exceed the 2^24 that float32 holds exactly")
        return spec
