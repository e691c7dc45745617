"""New tokens: where their ids lie, what they begin as, what is trained of them, and that tokenizer and model agree."""

import pytest
import torch
from tiny import VOCABULARY, tiny_llama, tiny_tokenizer
from tiny_families import tiny_family

from mftcoder.config.schema import Lora, MarkersChat, Model, TemplateChat, Training
from mftcoder.data.chat import check_vocabulary, encode, load_tokenizer, new_token_pieces
from mftcoder.data.inputs import vocabulary_hash
from mftcoder.data.records import Conversation, Message
from mftcoder.errors import MftcoderError
from mftcoder.models.adapter import make_batch
from mftcoder.models.load import load_causal, load_token_nll, meta_token_nll
from mftcoder.models.model_config import load_config

NEW = ["<|user|>", "<|bot|>", "<|im_end|>"]  # the last is known
KNOWN = len(tiny_tokenizer())  # 299, one less than the model embeds
IDS = torch.tensor([[5, KNOWN, 7, KNOWN + 1, 9, 10]])


def settings(folder, **changes: object) -> Model:
    return Model(path=str(folder), dtype="float32", new_tokens=NEW, **changes)


@pytest.fixture(params=[False, True], ids=["untied", "tied"])
def folder(tmp_path, request):
    tiny_llama(tie_word_embeddings=request.param).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    return tmp_path


def test_rows_begin_as_the_mean_of_the_pieces_and_the_matrices_grow(folder):
    before, model = load_causal(Model(path=str(folder), dtype="float32")), load_causal(settings(folder))
    pieces = {KNOWN + i: tiny_tokenizer().encode(NEW[i], add_special_tokens=False) for i in (0, 1)}
    assert new_token_pieces(settings(folder)) == pieces
    for matrix, old in (
        (model.get_input_embeddings().weight, before.get_input_embeddings().weight),
        (model.get_output_embeddings().weight, before.get_output_embeddings().weight),
    ):
        for number, of in pieces.items():
            torch.testing.assert_close(matrix[number], old[of].mean(0))
        assert torch.equal(matrix[:KNOWN], old[:KNOWN])
    tied = model.config.tie_word_embeddings
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied


@pytest.mark.parametrize("lora", [None, Lora(rank=4)])
def test_the_matrices_grow_to_the_length_of_the_tokenizer_and_no_further(folder, lora):
    # A row without a token would have a share of every softmax; AutoPeftModelForCausalLM grows to this length too.
    model = load_causal(settings(folder, lora=lora))
    assert model.config.vocab_size == len(load_tokenizer(settings(folder), TemplateChat())) == KNOWN + 2
    assert len(model.get_output_embeddings().weight) == KNOWN + 2


def test_ids_within_a_padded_vocabulary_need_no_larger_matrix(tmp_path):
    tiny_llama(vocab_size=384).save_pretrained(tmp_path)  # as Qwen: 151,936 rows for 151,665 tokens
    tiny_tokenizer().save_pretrained(tmp_path)
    model = load_causal(settings(tmp_path))
    assert model.config.vocab_size == 384
    pieces = new_token_pieces(settings(tmp_path))[KNOWN]
    embedding = model.get_input_embeddings().weight
    torch.testing.assert_close(embedding[KNOWN], embedding[pieces].mean(0))


def test_a_biased_head_grows_whole(tmp_path):
    tiny_family("phi").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    head = load_causal(settings(tmp_path)).get_output_embeddings()
    pieces = new_token_pieces(settings(tmp_path))[KNOWN + 1]
    assert head.bias.shape == (KNOWN + 2,)
    torch.testing.assert_close(head.bias[KNOWN + 1], head.bias[pieces].mean())


def test_under_lora_only_the_new_rows_are_trained_and_the_loss_is_the_librarys(folder):
    model = load_token_nll(settings(folder, lora=Lora(rank=4, dropout=0.0)), Training(), seed=0)
    batch = make_batch(IDS, torch.arange(6)[None])
    rows = [p for name, p in model.named_parameters() if "trainable_tokens_delta" in name and p.requires_grad]
    assert {len(p) for p in rows} == {2}
    assert all("lora_" in n or "trainable_tokens_delta" in n for n, p in model.named_parameters() if p.requires_grad)
    for row in rows:  # so that they differ from what is frozen below them
        torch.nn.init.normal_(row, std=0.3)
    nll = model(batch)[0]
    logits = model.causal(input_ids=IDS, use_cache=False).logits
    expected = torch.nn.functional.cross_entropy(logits[0, :-1], IDS[0, 1:], reduction="none")
    torch.testing.assert_close(nll, expected, rtol=1e-5, atol=1e-5)
    ours = torch.autograd.grad(nll.sum(), rows)
    theirs = torch.autograd.grad(expected.sum(), rows)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_modules_that_are_trained_whole_have_no_rows_beside(folder):
    lora = Lora(rank=4, modules_to_save=["embed_tokens"])
    model = load_token_nll(settings(folder, lora=lora), Training(), seed=0)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert not any("embed_tokens.token_adapter" in name for name in trained)
    assert any("embed_tokens.modules_to_save" in name for name in trained)


def test_tokenizer_and_model_agree(folder):
    chat = MarkersChat(type="markers", user="<|user|>", assistant="<|bot|>")
    tokenizer = load_tokenizer(settings(folder), chat)
    check_vocabulary(tokenizer, load_causal(Model(path=str(folder))).config, NEW)
    with pytest.raises(MftcoderError, match="embeds only ids below 300"):
        check_vocabulary(tokenizer, load_causal(Model(path=str(folder))).config)
    check_vocabulary(tokenizer, load_causal(settings(folder)).config)
    (sample,) = encode([Conversation((Message("user", "hi", False), Message("assistant", "ho", True)))], tokenizer)
    assert KNOWN in sample.input_ids
    assert KNOWN + 1 in sample.input_ids
    # What a user writes is no marker.
    (spelt,) = encode([Conversation((Message("user", "<|bot|>", False), Message("assistant", "ho", True)))], tokenizer)
    assert list(spelt.input_ids).count(KNOWN + 1) == 1
    plain = load_tokenizer(Model(path=str(folder)), TemplateChat())
    assert vocabulary_hash(plain) != vocabulary_hash(tokenizer)


def test_the_plan_of_memory_counts_them(folder):
    meta = meta_token_nll(settings(folder, lora=Lora(rank=4)), Training(), gpu=False)
    real = load_token_nll(settings(folder, lora=Lora(rank=4)), Training(), seed=0)
    sizes = [{name: p.shape for name, p in model.named_parameters()} for model in (meta, real)]
    assert sizes[0] == sizes[1]


def test_a_vocabulary_smaller_than_the_tokenizers_is_refused(tmp_path):
    tiny_llama(vocab_size=VOCABULARY - 10).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    model = Model(path=str(tmp_path), new_tokens=["<|user|>"])
    with pytest.raises(MftcoderError, match=r"the id 298, but the model embeds only ids below 290"):
        check_vocabulary(load_tokenizer(model, TemplateChat()), load_config(model), model.new_tokens)
