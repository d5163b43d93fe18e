"""Unusable files: each is refused with the cause, and leaves the model unchanged."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from imagegen_core import InvalidRequestError
from imagegen_core.models.headers import read_header
from imagegen_core.models.loras.plan import plan_lora
from tests.lora_files.conftest import Family
from tests.lora_files.dialects import kohya, peft, random_lora
from tests.repetitions import FACTOR

Save = Callable[..., Path]
State = dict[str, Tensor]

LAYER = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
DOWN, UP = f"{LAYER}.lora_down.weight", f"{LAYER}.lora_up.weight"


def _changed(**changes: Any) -> Callable[[State], State]:
    """A change to a good file: new tensors by role; None removes the tensor."""
    names = {"down": DOWN, "up": UP}

    def change(state: State) -> State:
        state = dict(state)
        for key, value in changes.items():
            if value is None:
                del state[names[key]]
            else:
                state[names[key]] = value(state[names[key]])
        return state

    return change


def _added(**tensors: Tensor) -> Callable[[State], State]:
    return lambda state: state | {name.replace("__", "."): tensor for name, tensor in tensors.items()}


BAD: dict[str, tuple[Callable[[State], State], str]] = {
    "an unknown key": (_added(mystery=torch.ones(2)), "its tensor 'mystery' is of an unknown kind"),
    "an unknown layer": (
        _added(lora_unet_mid_block_of_another__lora_down__weight=torch.ones(4, 8)),
        "changes a layer that this checkpoint does not have",
    ),
    "a down matrix without an up matrix": (_changed(up=None), "are not a whole layer"),
    "an up matrix without a down matrix": (_changed(down=None), "are not a whole layer"),
    "too many outputs": (_changed(up=lambda t: torch.ones(t.shape[0] + 8, 4)), "for a layer of shape 72×64"),
    "too many inputs": (_changed(down=lambda t: torch.ones(4, t.shape[1] + 8)), "for a layer of shape 64×72"),
    "two ranks": (_changed(up=lambda t: torch.ones(t.shape[0], 6)), "its matrices are of ranks 4 and 6"),
    "rank 0": (_changed(down=lambda t: torch.ones(0, 64), up=lambda t: torch.ones(64, 0)), "an empty matrix"),
    "one dimension": (_changed(up=lambda t: torch.ones(64)), "its matrices have fewer than two dimensions"),
    "a single number": (_changed(down=lambda t: torch.tensor(1.0)), "its matrices have fewer than two dimensions"),
    "integers": (_changed(down=lambda t: t.to(torch.int32)), "holds int32 numbers; save it as floating point"),
    "NaN": (_changed(down=lambda t: t * float("nan")), "holds NaN or infinite values"),
    "infinity": (_changed(up=lambda t: t / 0), "holds NaN or infinite values"),
    "an infinite alpha": (_added(**{f"{LAYER}__alpha": torch.tensor(float("inf"))}), "holds NaN or infinite values"),
    "several alphas": (_added(**{f"{LAYER}__alpha": torch.ones(2)}), "for a layer of shape 2, and"),
    "a LoRA on a norm": (
        _added(
            lora_unet_conv_norm_out__lora_down__weight=torch.ones(4, 1),
            lora_unet_conv_norm_out__lora_up__weight=torch.ones(32, 4),
        ),
        "and this checkpoint's is 32",
    ),
    "a LoRA on a whole block": (
        _added(
            lora_unet_mid_block__lora_down__weight=torch.ones(4, 8),
            lora_unet_mid_block__lora_up__weight=torch.ones(8, 4),
        ),
        "changes a layer that this checkpoint does not have",
    ),
    "a difference for a missing bias": (
        _added(**{f"{LAYER}__diff_b": torch.ones(64)}),
        "this checkpoint has no such parameter",
    ),
    "OFT": (_added(lora_unet_conv_in__oft_blocks=torch.ones(4, 2, 2)), "is of OFT, which is not drawn here"),
    "IA3": (_added(lora_unet_conv_in__on_input=torch.tensor(0.0)), "is of IA3, which is not drawn here"),
    "GLoRA": (_added(lora_unet_conv_in__a1__weight=torch.ones(4, 4)), "is of GLoRA, which is not drawn here"),
    "T-LoRA": (_added(lora_unet_conv_in__lambda_layer=torch.ones(1, 4)), "is of T-LoRA, which is not drawn here"),
    "a second encoder of another family": (
        _added(lora_te3_x__lora_down__weight=torch.ones(4, 4)),
        "changes a layer that this checkpoint does not have",
    ),
    "two adapters": (
        lambda state: state | {f"{LAYER}.lora_A.weight": state[DOWN]},
        "are of two adapters; save each into a file of its own",
    ),
    "an embedding of another width": (_added(bundle_emb__word__clip_l=torch.ones(2, 7)), "for a layer of shape 2×7"),
    "an embedding of an unknown kind": (_added(bundle_emb__word__t5=torch.ones(2, 32)), "bundle_emb.word.t5"),
}


@pytest.mark.parametrize("family", ["sdxl"], indirect=True)
@pytest.mark.parametrize("fault", BAD)
def test_a_faulty_file_is_refused_and_leaves_the_model_unchanged(family: Family, save: Save, fault: str) -> None:
    change, reason = BAD[fault]
    path = save(change(kohya(random_lora(family.plain))))
    before = _state_of(family)
    with pytest.raises(InvalidRequestError, match=re.escape(reason)):
        family.draw(path)
    assert family.draw() == family.bare
    assert _state_of(family) == before


def _state_of(family: Family) -> tuple[int, ...]:
    """The worker's memory, and the number of parameters in each network."""
    networks = (family.worker.pipe.unet, family.worker.pipe.text_encoder)
    return family.worker.memory_bytes(), *(sum(1 for _ in network.parameters()) for network in networks)


SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "another algorithm": ({"peft_type": "IA3"}, "says peft_type 'IA3', which is not drawn here"),
    "other weights": ({"init_lora_weights": "pissa"}, "trains against other weights than the checkpoint's"),
    "an unknown setting": ({"use_wonder": True}, "sets 'use_wonder', which is not known here"),
    "a regular expression": ({"alpha_pattern": {"(a+)+b": 1}}, "which is a regular expression"),
    "an alpha that is no number": ({"lora_alpha": "much"}, "has 'much' for an alpha or a rank; expected a number"),
    "DoRA without magnitudes": ({"use_dora": True}, "say use_dora, and"),
}


@pytest.mark.parametrize("family", ["sdxl"], indirect=True)
@pytest.mark.parametrize("fault", SETTINGS)
@pytest.mark.parametrize("place", ["a separate file", "metadata of a network", "metadata of a pipeline"])
def test_unsupported_settings_are_refused(family: Family, save: Save, fault: str, place: str) -> None:
    peft_settings, reason = SETTINGS[fault]
    peft_settings = {"r": 4, "lora_alpha": 4} | peft_settings
    state = peft(random_lora(family.plain))
    metadata = None
    if place == "metadata of a network":
        metadata = {"lora_adapter_metadata": json.dumps(peft_settings)}
    elif place == "metadata of a pipeline":
        prefixed = {f"unet.{key}": value for key, value in peft_settings.items()}
        metadata = {"lora_adapter_metadata": json.dumps(prefixed)}
    path = save(state, metadata=metadata)
    if place == "a separate file":
        (path.parent / "adapter_config.json").write_text(json.dumps(peft_settings))
    with pytest.raises(InvalidRequestError, match=re.escape(reason)):
        family.draw(path)
    assert family.draw() == family.bare


@pytest.mark.parametrize("family", ["sdxl"], indirect=True)
@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000, '{"unet.r": 4, "r": 4}'])
def test_malformed_settings_are_refused(family: Family, save: Save, text: str) -> None:
    path = save(peft(random_lora(family.plain)), metadata={"lora_adapter_metadata": text})
    with pytest.raises(InvalidRequestError, match="its metadata lora_adapter_metadata"):
        family.draw(path)


@pytest.mark.parametrize("family", ["sdxl"], indirect=True)
def test_a_binary_adapter_config_is_refused(family: Family, save: Save) -> None:
    path = save(peft(random_lora(family.plain)))
    (path.parent / "adapter_config.json").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidRequestError, match="its adapter_config.json is not JSON"):
        family.draw(path)


def test_a_small_header_with_a_huge_shape_is_refused_unread(family: Family, tmp_path: Path) -> None:
    shapes = {DOWN: [0, 4], UP: [3_000_000, 4, 0]}
    header = {name: {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]} for name, shape in shapes.items()}
    text = json.dumps(header).encode()
    path = tmp_path / "huge.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(InvalidRequestError, match="it has an empty matrix"):
        family.draw(path)


def test_a_file_for_the_other_family_is_refused_for_its_width(
    family: Family, save: Save, request: pytest.FixtureRequest
) -> None:
    import diffusers

    other = {
        "sdxl": ("sd15_checkpoint", diffusers.StableDiffusionPipeline),
        "sd15": ("sdxl_checkpoint", diffusers.StableDiffusionXLPipeline),
    }[family.name]
    pipe = other[1].from_pretrained(request.getfixturevalue(other[0]), local_files_only=True)
    with pytest.raises(InvalidRequestError, match="made for a cross-attention width of"):
        family.draw(save(kohya(random_lora(pipe))))


def test_a_lora_for_a_missing_text_encoder_is_refused_for_its_family(family: Family, save: Save) -> None:
    if family.name == "sdxl":
        return
    name = "lora_te2_text_model_encoder_layers_0_mlp_fc1"
    state = {f"{name}.lora_down.weight": torch.ones(4, 32), f"{name}.lora_up.weight": torch.ones(64, 4)}
    with pytest.raises(InvalidRequestError, match=r"it was made for sdxl, and the checkpoint is sd15"):
        family.draw(save(state))


def test_an_ambiguous_text_encoder_is_refused(family: Family, save: Save) -> None:
    name = "base_model.model.text_model.encoder.layers.0.mlp.fc1"
    path = save({f"{name}.lora_A.weight": torch.eye(4, 32), f"{name}.lora_B.weight": torch.eye(64, 4)})
    if family.name == "sd15":
        assert family.draw(path) != family.bare
        return
    with pytest.raises(InvalidRequestError, match="does not say which one it means"):
        family.draw(path)


@settings(max_examples=60 * FACTOR, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_header_gives_a_plan_or_a_refusal(family: Family, tmp_path: Path, data: st.DataObject) -> None:
    """The header has random names and shapes."""
    from imagegen_core import ModelLoadError

    suffixes = [
        "lora_down.weight",
        "lora_up.weight",
        "lora_mid.weight",
        "alpha",
        "dora_scale",
        "diff",
        "diff_b",
        "weight",
    ]
    suffixes += [
        "hada_w1_a",
        "hada_w1_b",
        "hada_w2_a",
        "hada_w2_b",
        "hada_t1",
        "lokr_w1",
        "lokr_w2",
        "lokr_w2_a",
        "bias",
    ]
    layers = [
        LAYER,
        "lora_unet_conv_in",
        "lora_unet_conv_norm_out",
        "lora_te_text_model_embeddings_token_embedding",
        "x",
    ]
    names = st.builds("{}.{}".format, st.sampled_from(layers), st.sampled_from(suffixes))
    shapes = st.lists(st.sampled_from([0, 1, 2, 4, 32, 64]), max_size=4)
    drawn = data.draw(st.dictionaries(names, shapes, min_size=1, max_size=6))
    header, end = {}, 0
    for name, shape in drawn.items():
        size = 2 * int(torch.tensor(shape).prod()) if shape else 2
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    path = tmp_path / "any.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))
    try:
        plan = plan_lora(read_header(path), family.worker._adapters.layers)
    except ModelLoadError as error:
        assert str(error)
    else:
        assert sum(len(change.tensors) for change in plan.layers) == len(header)
