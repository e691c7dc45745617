"""What is read from a model's config.json, what the settings make of it, and what is refused in words."""

import json
from pathlib import Path

import pytest
import torch
from tiny import random_rows, tiny_llama
from tiny_families import tiny_family
from transformers import Gemma3Config, Gemma3ForConditionalGeneration, LlamaConfig, Qwen2_5_VLConfig

from mftcoder.config.load import parse
from mftcoder.config.schema import Config, Model, Training
from mftcoder.data.loader import collate
from mftcoder.errors import MftcoderError
from mftcoder.models.load import load_causal, load_token_nll
from mftcoder.models.model_config import check_length, is_text_part, load_config, maximum_length
from mftcoder.models.sample_rope import SampleRope

REMOTE = "from transformers import LlamaConfig\nclass Own(LlamaConfig):\n    model_type = '{model_type}'\n"
REMOTE_MODEL = (
    "from transformers import LlamaForCausalLM\nfrom .own import Own\n"
    "class OwnForCausalLM(LlamaForCausalLM):\n    config_class = Own\n"
)


def config_of(folder: Path, length: int = 100, **model: object) -> Config:
    tasks = [{"name": "a", "path": "x"}]
    return parse(
        {
            "output_dir": "x",
            "model": {"path": str(folder), "dtype": "float32", **model},
            "data": {"tasks": tasks, "sequence_length": length},
        }
    )


def remote_model(folder: Path, model_type: str) -> Path:
    """A model that brings its own code, which transformers has no class for."""
    tiny_llama().save_pretrained(folder)
    stored = json.loads((folder / "config.json").read_text())
    stored |= {
        "model_type": model_type,
        "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own_model.OwnForCausalLM"},
    }
    (folder / "config.json").write_text(json.dumps(stored))
    (folder / "own.py").write_text(REMOTE.format(model_type=model_type))
    (folder / "own_model.py").write_text(REMOTE_MODEL)
    return folder


class TestRemoteCode:
    @pytest.mark.parametrize(
        ("model_type", "name"), [("baichuan", r"Baichuan 1, 2 \(baichuan\)"), ("own", 'of the type "own"')]
    )
    def test_is_refused_by_default_and_runs_when_allowed(self, tmp_path, model_type, name):
        folder = remote_model(tmp_path / "remote", model_type)
        with pytest.raises(MftcoderError, match=f"is {name}, for which .* set model.trust_remote_code to true"):
            load_config(Model(path=str(folder)))
        model = load_causal(Model(path=str(folder), trust_remote_code=True, dtype="float32"))
        assert type(model).__name__ == "OwnForCausalLM"
        assert torch.equal(model.lm_head.weight, tiny_llama().lm_head.weight)

    def test_what_has_a_class_of_the_library_runs_by_that(self, tmp_path):
        folder = remote_model(tmp_path / "remote", "llama")
        (folder / "own.py").write_text("raise SystemExit('ran')")
        assert type(load_causal(Model(path=str(folder)))).__module__ == "transformers.models.llama.modeling_llama"

    def test_that_fails_is_told(self, tmp_path):
        folder = remote_model(tmp_path / "remote", "own")
        (folder / "own.py").write_text("from transformers.pytorch_utils import something_that_is_gone\n")
        with pytest.raises(MftcoderError, match=r"cannot read a model config .*something_that_is_gone"):
            load_config(Model(path=str(folder), trust_remote_code=True))


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"model_type": "nope"}, 'of the type "nope", for which transformers has no class, and brings no code'),
        ({"model_type": "llama", "hidden_size": "wide"}, "cannot read a model config"),
        ({}, "cannot read a model config"),
    ],
)
def test_a_config_that_cannot_be_read_is_told(tmp_path, stored, message):
    (tmp_path / "config.json").write_text(json.dumps(stored))
    with pytest.raises(MftcoderError, match=message):
        load_config(Model(path=str(tmp_path)))


TEXT = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8}
TEXT |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}
VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


class TestModelsOfSeveralParts:
    def test_the_text_part_of_gemma_3_is_what_the_whole_model_says_to_text(self, tmp_path):
        vision = VISION | {"image_size": 28, "patch_size": 14}
        torch.manual_seed(0)
        whole = Gemma3ForConditionalGeneration(
            Gemma3Config(text_config=TEXT, vision_config=vision, mm_tokens_per_image=4)
        )
        whole.save_pretrained(tmp_path)
        settings = Model(path=str(tmp_path), dtype="float32")
        part, ids = load_causal(settings), torch.arange(20)[None]
        assert is_text_part(settings)
        assert part.config.model_type == "gemma3_text"
        assert not any("vision" in name for name, _ in part.named_parameters())
        with torch.no_grad():
            torch.testing.assert_close(part.eval()(ids).logits, whole.eval()(input_ids=ids).logits)
        exported = Model(path=str(tmp_path / "exported"), dtype="float32")
        part.save_pretrained(exported.path)
        assert not is_text_part(exported)
        assert torch.equal(load_causal(exported).model.norm.weight, part.model.norm.weight)

    def test_others_are_refused(self, tmp_path):
        Qwen2_5_VLConfig(text_config=TEXT, vision_config=VISION).save_pretrained(tmp_path)
        with pytest.raises(MftcoderError, match=r"several parts \(qwen2_5_vl\).* Take a text model"):
            load_config(Model(path=str(tmp_path)))


def test_weights_that_are_not_in_the_files_are_an_error(tmp_path):
    model = tiny_llama()
    weights = {name: weight for name, weight in model.state_dict().items() if "layers.1.mlp.up" not in name}
    model.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(MftcoderError, match=r"lack 1 of the weights of a LlamaForCausalLM, e\.g\. model\.layers\.1"):
        load_causal(Model(path=str(tmp_path)))


class TestLength:
    def test_beyond_what_the_model_was_made_for_is_refused(self, tmp_path):
        tiny_llama().config.save_pretrained(tmp_path)
        check_length(config_of(tmp_path, 128), load_config(Model(path=str(tmp_path))))
        with pytest.raises(MftcoderError, match=r"at most 128 .*found 129.*model\.rope_scaling"):
            check_length(config_of(tmp_path, 129), load_config(Model(path=str(tmp_path))))

    @pytest.mark.parametrize("kind", ["yarn", "linear", "llama3"])
    def test_rope_scaling_extends_it_and_is_exported(self, tmp_path, kind):
        tiny_llama().save_pretrained(tmp_path / "base")
        scaling = {"type": kind, "factor": 4.0}
        config = config_of(tmp_path / "base", 512, rope_scaling=scaling)
        check_length(config, load_config(config.model))
        model = load_causal(config.model)
        model.save_pretrained(tmp_path / "exported")
        again = load_config(Model(path=str(tmp_path / "exported")))
        assert again.rope_parameters["rope_type"] == kind
        assert maximum_length(again) == 512
        unscaled = load_causal(Model(path=str(tmp_path / "base"), dtype="float32"))
        frequencies = model.model.rotary_emb.inv_freq / unscaled.model.rotary_emb.inv_freq
        assert frequencies.min() == pytest.approx(0.25)  # the lowest ones are slowed by the factor
        if kind != "linear":
            assert frequencies.max() == pytest.approx(1.0)

    def test_a_base_of_ones_own(self, tmp_path):
        tiny_llama().config.save_pretrained(tmp_path)
        config = load_config(
            Model(path=str(tmp_path), rope_scaling={"type": "default", "factor": 8.0, "theta": 1e6})  # type: ignore[arg-type]
        )
        assert (config.rope_parameters["rope_theta"], config.max_position_embeddings) == (1e6, 1024)

    def test_only_full_attention_is_scaled(self, tmp_path):
        tiny_family("gemma3").config.save_pretrained(tmp_path)
        before = load_config(Model(path=str(tmp_path))).rope_parameters
        after = load_config(config_of(tmp_path, rope_scaling={"type": "linear", "factor": 2.0}).model).rope_parameters
        assert after["sliding_attention"] == before["sliding_attention"]
        assert after["full_attention"]["factor"] == 2.0

    @pytest.mark.parametrize(
        ("name", "message"), [("gpt-bigcode", "has no RoPE to scale"), ("llama-3", r'scaled already \("llama3"')]
    )
    def test_what_cannot_be_scaled_is_told(self, tmp_path, name, message):
        tiny_family(name).config.save_pretrained(tmp_path)
        with pytest.raises(MftcoderError, match=message):
            load_config(config_of(tmp_path, rope_scaling={"factor": 4.0}).model)

    def test_rope_by_the_longest_sample_of_a_batch_is_refused(self, tmp_path):
        rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 128}
        LlamaConfig(max_position_embeddings=512, rope_parameters=rope).save_pretrained(tmp_path)
        check_length(config_of(tmp_path, 128), load_config(Model(path=str(tmp_path))))
        with pytest.raises(MftcoderError, match=r'beyond the 128 tokens.*"dynamic"'):
            check_length(config_of(tmp_path, 129), load_config(Model(path=str(tmp_path))))


def test_longrope_by_sample_is_the_librarys_for_each_sample_alone():
    theirs, ours = (tiny_family("phi3-long").base_model.rotary_emb for _ in range(2))
    hidden, lengths = torch.zeros(1, 40, 32), [9, 14, 3, 14]  # the first 10 positions were trained on
    packed = torch.cat([torch.arange(length) for length in lengths])[None]
    found = SampleRope(ours, 10)(hidden, packed)
    expected = [theirs(hidden, torch.arange(length)[None]) for length in lengths]
    for index in (0, 1):
        torch.testing.assert_close(found[index], torch.cat([both[index] for both in expected], dim=1))


def test_training_looks_at_each_sample(tmp_path):
    tiny_family("phi3-long").save_pretrained(tmp_path)
    model = load_token_nll(config_of(tmp_path).model, Training(), seed=0).eval()
    both, short = random_rows(0, [[8, 20]]), random_rows(0, [[8]])
    short[0].input_ids[:], short[0].supervised[:] = both[0].input_ids[:8], both[0].supervised[:8]
    packed, alone = (model(collate([(0, rows[0])], isolate_samples=True))[0] for rows in (both, short))
    torch.testing.assert_close(packed[: len(alone)], alone, rtol=1e-4, atol=1e-4)
