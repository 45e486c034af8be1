"""Published weights of vision Transformers, as Hugging Face's ViTModel reads them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from experiments.laboratory import data_folder
from experiments.laboratory.errors import UserError
from experiments.laboratory.runs import note
from experiments.models.vit import VisionTransformer


@dataclass(frozen=True)
class Published:
    """A checkpoint of all weights but the head's.

    folder  a Hugging Face model folder, as a path or under the data folder, or a name on the hub
    """

    folder: str = "google/vit-large-patch32-224-in21k"

    def load(self, network: VisionTransformer) -> VisionTransformer:
        """Put the weights into a network of the same architecture; its head stays as it is."""
        where = str(data_folder.model_folder(self.folder) or self.folder)
        source = _read(where)
        _check(network, source.config, where)
        with torch.no_grad():
            _copy(network, source)
        note("data", {self.folder: f"{sum(v.numel() for v in source.parameters()):,} parameters"})
        return network.eval()


def _read(where: str) -> Any:
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    offline = Path(where).is_dir() or not data_folder.reachable(data_folder.HUGGING_FACE)
    try:
        source = transformers.ViTModel.from_pretrained(
            where, local_files_only=offline, add_pooling_layer=False
        )
    except Exception as error:  # the libraries raise errors of many kinds, with one remedy
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{where} is neither a local folder of a vision Transformer nor a name on the hub "
            f"({first}): put the folder (config.json, model.safetensors) under --data DIR "
            "or RETRACE_DATA=DIR, or give its path by --model.start.folder"
        ) from error
    return source.float().eval()


def _check(network: VisionTransformer, config: Any, where: str) -> None:
    wanted = {
        "depth": (network.size.depth, config.num_hidden_layers),
        "width": (network.size.width, config.hidden_size),
        "heads": (network.size.heads, config.num_attention_heads),
        "patch": (network.size.patch, config.patch_size),
        "resolution": (network.size.resolution, config.image_size),
        "channels": (network.size.channels, config.num_channels),
        "inner width": (4 * network.size.width, config.intermediate_size),
    }
    for name, (ours, theirs) in wanted.items():
        if ours != theirs:
            raise UserError(
                f"{where} has {name} {theirs}, the network {ours}: give the network of the "
                f"checkpoint, as --model.network.{name.replace('inner ', '')} {theirs}"
            )


def _copy(network: VisionTransformer, source: Any) -> None:
    """Copy weights; ViTModel has separate queries, keys and values, and a convolution for patches.

    The epsilon of normalisation stays 1e-6, as the publisher of the weights has it.
    """
    network.patch.weight.copy_(source.embeddings.patch_embeddings.projection.weight.flatten(1))
    network.patch.bias.copy_(source.embeddings.patch_embeddings.projection.bias)
    network.token.weight.copy_(source.embeddings.cls_token[0])
    network.position.weight.copy_(source.embeddings.position_embeddings[0])
    network.norm.load_state_dict(source.layernorm.state_dict())
    blocks: Any = network.blocks
    for own, block in zip(blocks, source.layers, strict=True):
        parts = block.attention.q_proj, block.attention.k_proj, block.attention.v_proj
        own.attention.qkv.weight.copy_(torch.cat([part.weight for part in parts]))
        own.attention.qkv.bias.copy_(torch.cat([part.bias for part in parts]))
        own.attention.out.load_state_dict(block.attention.o_proj.state_dict())
        own.norm1.load_state_dict(block.layernorm_before.state_dict())
        own.norm2.load_state_dict(block.layernorm_after.state_dict())
        own.inner.load_state_dict(block.mlp.fc1.state_dict())
        own.outer.load_state_dict(block.mlp.fc2.state_dict())
