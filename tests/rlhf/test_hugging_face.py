"""Models of `transformers` as policies and rewards: tiny random ones, nothing is downloaded."""

import copy
import subprocess
import sys

import pytest
import torch

from flatlab import rlhf
from flatlab.train import Recipe

transformers = pytest.importorskip("transformers", reason="needs transformers: pip install 'flatlab[hf]'")
tokenizers = pytest.importorskip("tokenizers", reason="comes with transformers: pip install 'flatlab[hf]'")

PAD, EOS = 0, 1
SIZES = {"vocab_size": 50, "pad_token_id": PAD, "bos_token_id": EOS, "eos_token_id": EOS}
# Large weights: with the usual ones all logits are nearly 0, and no mistake would show.
WIDE = {**SIZES, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.5}
GATED = {**WIDE, "intermediate_size": 64, "max_position_embeddings": 64, "num_key_value_heads": 2}


def neox(kind="GPTNeoXForCausalLM", **changes):
    settings = {**WIDE, "intermediate_size": 64, "max_position_embeddings": 64, **changes}
    return getattr(transformers, kind)(transformers.GPTNeoXConfig(**settings)).eval()


def llama():
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**GATED)).eval()


def gpt2(**changes):
    settings = {**SIZES, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.5}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**{**settings, **changes})).eval()


def gemma2():
    config = transformers.Gemma2Config(**GATED, head_dim=8, final_logit_softcapping=2.0, sliding_window=4)
    return transformers.Gemma2ForCausalLM(config).eval()


def cohere():
    return transformers.CohereForCausalLM(transformers.CohereConfig(**GATED, logit_scale=0.25)).eval()


def granite():
    return transformers.GraniteForCausalLM(transformers.GraniteConfig(**GATED, logits_scaling=4.0)).eval()


every_model = pytest.mark.parametrize("build", [neox, llama, gpt2, gemma2, cohere, granite])
three_models = pytest.mark.parametrize("build", [neox, llama, gpt2])


def tokens(n, length, seed=0):
    return torch.randint(2, 50, (n, length), generator=torch.Generator().manual_seed(seed))


def close(found, wanted, atol=1e-4):
    torch.testing.assert_close(found, wanted, atol=atol, rtol=1e-4)


@every_model
def test_head_and_hidden_states_make_the_models_own_logits(build):
    model = build()
    policy, x = rlhf.HuggingFaceLM(model), tokens(3, 12)
    assert (policy.symbols, policy.width, policy.context) == (50, 32, 64)
    assert policy.model is model
    hidden, wanted = policy.hidden(x), model(input_ids=x).logits
    assert hidden.shape == (3, 12, 32)
    assert wanted.std() > 0.3, "logits too small to tell one way of scaling from another"
    close(policy.head(hidden), wanted)
    close(policy(x), wanted)


def test_a_model_in_train_mode_is_checked_without_dropout_and_stays_in_it():
    model = neox(hidden_dropout=0.5, attention_dropout=0.5).train()
    rlhf.HuggingFaceLM(model)
    assert all(module.training for module in model.modules())


@every_model
@pytest.mark.parametrize("starts", [None, torch.tensor([0, 3, 5])])
def test_what_a_cache_holds_need_not_be_read_again(build, starts):
    policy, x, seen = rlhf.HuggingFaceLM(build()), tokens(3, 14), []
    policy.model.base_model.register_forward_hook(lambda *given: seen.append(given[2]), with_kwargs=True)
    cache, first = policy.cache(), 0 if starts is None else 5
    parts = [policy.hidden(part, starts=starts, cache=cache) for part in x.split([8, 1, 1, 4], 1)]
    assert [given["input_ids"].shape[1] for given in seen] == [8, 1, 1, 4]
    assert cache.length == 14
    close(torch.cat(parts, 1)[:, first:], policy.hidden(x, starts=starts)[:, first:])


@every_model
def test_padding_on_the_left_changes_nothing(build):
    policy, x = rlhf.HuggingFaceLM(build()), tokens(3, 10)
    starts = torch.tensor([0, 4, 9])
    whole = torch.where(torch.arange(10) >= starts[:, None], x, PAD)
    hidden = policy.hidden(whole, starts=starts)
    for row, start in enumerate(starts.tolist()):
        close(hidden[row, start:], policy.hidden(x[row : row + 1, start:])[0])
    assert hidden.isfinite().all(), "a mean over the text multiplies those of padding by 0"
    hidden[:, -1].sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in policy.parameters())


@three_models
def test_samples_have_the_log_probabilities_that_they_are_given(build):
    policy, prompts = rlhf.HuggingFaceLM(build()), tokens(40, 6)
    prompts[::2, :3] = PAD
    text = {"temperature": 3.0, "eos": EOS, "pad": PAD}
    drawn, logps = rlhf.sample(policy, prompts, 8, generator=torch.Generator().manual_seed(1), **text)
    assert (drawn == EOS).any(), "no text ended"
    close(rlhf.response_logps(policy, prompts, drawn, **text), logps)
    again, _ = rlhf.sample(policy, prompts, 8, generator=torch.Generator().manual_seed(1), **text)
    assert (again == drawn).all()
    wanted = (policy.model(input_ids=torch.cat([prompts, drawn], 1)[1::2, :6]).logits[:, -1] / 3.0).log_softmax(1)
    close(logps[1::2, 0], wanted.gather(1, drawn[1::2, :1])[:, 0])


def many_sevens(prompts, responses):
    return (responses == 7).double().mean(1)


@three_models
@pytest.mark.parametrize("algo", ["rloo", "grpo"])
def test_a_policy_gradient_changes_the_policy_and_not_the_reference(build, algo):
    policy = rlhf.HuggingFaceLM(build())
    ref = copy.deepcopy(policy)
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    text = {"max_new_tokens": 6, "temperature": 3.0, "pad": PAD}
    how = {"algo": algo, "k": 4, "lr": 0.03, "batch": 32, "steps": 2}
    history = rlhf.policy_gradient(policy, ref, many_sevens, tokens(16, 4), **how, **text)
    assert len(history) == 2
    assert history.kl[0].abs() < 1e-4
    assert (history.grad_norm > 0).all()
    known = [rlhf.response_logps(model, tokens(16, 4), tokens(16, 6, seed=1)) for model in (policy, ref)]
    assert (known[0] - known[1]).abs().max() > 1e-2
    assert all(torch.equal(before[name], value) for name, value in ref.state_dict().items())


def test_a_stopped_policy_gradient_goes_on_exactly_with_tied_weights(tmp_path):
    policy = rlhf.HuggingFaceLM(gpt2())
    assert policy.head.weight is policy.model.get_input_embeddings().weight
    ref, other = copy.deepcopy(policy), copy.deepcopy(policy)
    assert other.head.weight is other.model.get_input_embeddings().weight
    how = {"k": 4, "lr": 1e-3, "batch": 32, "max_new_tokens": 6, "temperature": 3.0, "seed": 3}

    def train(model, steps, **more):
        rlhf.policy_gradient(model, ref, many_sevens, tokens(16, 4), steps=steps, **how, **more)

    train(policy, 4)
    train(other, 2, checkpoint=tmp_path / "run")
    fresh = copy.deepcopy(ref)
    train(fresh, 4, checkpoint=tmp_path / "run")
    for name, value in policy.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], value), name


def test_finetuning_learns_the_demonstrations():
    policy, prompts = rlhf.HuggingFaceLM(gpt2(initializer_range=0.02)), tokens(32, 4)
    prompts[::3, :2] = PAD
    answers = torch.full((32, 3), 7)
    before = rlhf.response_logps(policy, prompts, answers, pad=PAD).sum(1).mean()
    recipe = Recipe(epochs=5, batch_size=8, lr=1e-2, optimizer=torch.optim.AdamW, schedule="constant")
    rlhf.train_sft(policy, prompts, answers, recipe, pad=PAD)
    assert rlhf.response_logps(policy, prompts, answers, pad=PAD).sum(1).mean() > before / 3


@three_models
@pytest.mark.parametrize("pool", ["mean", "last"])
def test_a_reward_model_learns_pairs(build, pool):
    policy, texts = rlhf.HuggingFaceLM(build()), tokens(64, 8)
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    pairs = torch.stack([texts, texts.clone()], 1)
    pairs[:, 0, -3:], pairs[:, 1, -3:] = 7, 8
    recipe = Recipe(epochs=4, batch_size=16, lr=3e-3, optimizer=torch.optim.AdamW, schedule="constant")
    model = rlhf.train_reward_model(pairs, policy, recipe=recipe, pool=pool, pad=PAD)
    fresh = tokens(50, 8, seed=1)
    good, bad = fresh.clone(), fresh.clone()
    good[:, -3:], bad[:, -3:] = 7, 8
    assert (model(good) > model(bad)).float().mean() > 0.9
    short = torch.cat([torch.full((50, 3), PAD), good], 1)
    close(model(short), model(good), atol=1e-3)
    close(model(good[:, :5], good[:, 5:]), model(good))
    assert all(torch.equal(before[name], value) for name, value in policy.state_dict().items())


WORDS = {"<pad>": 0, "<eos>": 1, **{f"w{i}": i for i in range(2, 50)}}


def tokenizer(**special):
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(WORDS, unk_token="w2"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "eos_token": "<eos>", **special}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, padding_side="left", **special)


def spoken(row):
    """The policy's tokens count backwards, so that they must be translated."""
    return " ".join(f"w{51 - token}" for token in row if token > 1)


def classifier(**changes):
    return neox("GPTNeoXForSequenceClassification", num_labels=2, **changes)


def bert():
    config = transformers.BertConfig(**WIDE, intermediate_size=64, max_position_embeddings=64, num_labels=2)
    return transformers.BertForSequenceClassification(config).eval()


def ragged():
    """Prompts padded on their left, and responses on their right, of several lengths."""
    prompts, responses = tokens(7, 5), tokens(7, 9, seed=1)
    for row in range(7):
        prompts[row, : row % 4] = PAD
        responses[row, 2 + row :] = PAD
    return prompts, responses


@pytest.mark.parametrize("build", [classifier, bert])
@pytest.mark.parametrize("index", [0, 1])
def test_rewards_are_the_classifiers_logits_of_the_text_alone(build, index):
    model, (prompts, responses) = build(), ragged()
    wanted = []
    for row in torch.cat([prompts, responses], 1):
        text = torch.tensor([[51 - int(token) for token in row if token > 1]])
        wanted.append(model(input_ids=text).logits[0, index])
    for batch in (1, 2, 3, 7, 100):
        rewards = rlhf.SequenceReward(model, tokenizer(), spoken, index=index, batch=batch)(prompts, responses)
        assert rewards.dtype == torch.float32
        assert not rewards.requires_grad
        close(rewards, torch.stack(wanted).detach())
    assert torch.stack(wanted).std() > 0.1


def test_rewards_do_not_depend_on_the_batch_where_padding_is_the_end_of_text():
    model = classifier(pad_token_id=EOS)
    prompts, responses = ragged()
    prompts[::2, 4], prompts[2, 2], responses[1, 0], responses[4, 3] = EOS, EOS, EOS, EOS

    def ended(row):
        return " ".join("<eos>" if token == EOS else f"w{token}" for token in row if token != PAD)

    given = tokenizer(pad_token="<eos>")
    found = [rlhf.SequenceReward(model, given, ended, batch=batch)(prompts, responses) for batch in (1, 2, 7)]
    close(found[1], found[0])
    close(found[2], found[0])
    alone = rlhf.SequenceReward(model, given, ended)
    shorter = torch.where(responses == EOS, PAD, responses)
    assert (alone(prompts, shorter) - found[0])[[1, 4]].abs().min() > 1e-3, "the end within a text counts for nothing"


def test_rewards_are_measured_in_eval_mode_and_leave_the_mode():
    prompts, responses = ragged()
    model = classifier(hidden_dropout=0.5).train()
    reward = rlhf.SequenceReward(model, tokenizer(), spoken)
    close(reward(prompts, responses), reward(prompts, responses))
    assert model.training


def test_long_texts_are_cut_where_max_length_says():
    prompts, responses = tokens(4, 5), tokens(4, 9, seed=1)
    model = classifier()
    cut = rlhf.SequenceReward(model, tokenizer(), spoken, max_length=8)(prompts, responses)
    whole = rlhf.SequenceReward(model, tokenizer(), spoken)
    close(cut, whole(prompts, responses[:, :3]))
    assert (whole(prompts, responses) - cut).abs().min() > 1e-3


def test_a_classifier_teaches_a_language_model():
    policy = rlhf.HuggingFaceLM(neox())
    reward, how = rlhf.SequenceReward(classifier(), tokenizer(), spoken), {"temperature": 3.0, "pad": PAD}
    history = rlhf.policy_gradient(
        policy, copy.deepcopy(policy), reward, tokens(8, 4), lr=1e-3, steps=2, batch=16, max_new_tokens=5, **how
    )
    assert (history.variance > 0).all()
    assert (history.grad_norm > 0).all()


def test_what_a_language_model_refuses():
    with pytest.raises(TypeError, match=r"got GPTNeoXForSequenceClassification; use AutoModelForCausalLM"):
        rlhf.HuggingFaceLM(classifier())
    with pytest.raises(TypeError, match="got GPTNeoXModel"):
        rlhf.HuggingFaceLM(neox("GPTNeoXModel"))
    bare = neox()
    bare.base_model_prefix = ""
    with pytest.raises(TypeError, match="got GPTNeoXForCausalLM"):
        rlhf.HuggingFaceLM(bare)
    with pytest.raises(ValueError, match=r"at most the model's positions \(64\), got 65"):
        rlhf.HuggingFaceLM(neox(), context=65)
    with pytest.raises(ValueError, match="context must be an integer >= 1, got 0"):
        rlhf.HuggingFaceLM(neox(), context=0)
    policy = rlhf.HuggingFaceLM(neox(), context=10)
    cache = policy.cache()
    policy.hidden(tokens(1, 8), cache=cache)
    with pytest.raises(ValueError, match="window of 11 tokens is longer than context=10"):
        policy.hidden(tokens(1, 3), cache=cache)
    with pytest.raises(ValueError, match="do not fit into context=10"):
        rlhf.sample(policy, tokens(1, 8), 3)


def test_a_model_without_a_known_longest_window_needs_one_given():
    settings = {"vocab_size": 50, "hidden_size": 32, "n_layer": 2, "n_head": 4}
    model = transformers.BloomForCausalLM(transformers.BloomConfig(**settings)).eval()
    with pytest.raises(ValueError, match=r"context must be given.* got None"):
        rlhf.HuggingFaceLM(model)
    assert rlhf.HuggingFaceLM(model, context=100).context == 100


def test_logits_that_are_made_in_another_way_are_refused():
    model = neox()
    model.register_forward_hook(lambda module, given, out: type(out)(logits=out.logits + 1.0))
    with pytest.raises(ValueError, match="GPTNeoXForCausalLM scales logits or keeps its past in a way unknown here"):
        rlhf.HuggingFaceLM(model)


def test_a_cache_that_forgets_is_refused():
    model = llama()

    def forget(module, args, given):
        return args, {key: None if key in ("cache", "past_key_values") else value for key, value in given.items()}

    model.base_model.register_forward_pre_hook(forget, with_kwargs=True)
    with pytest.raises(ValueError, match="LlamaForCausalLM scales logits or keeps its past in a way unknown here"):
        rlhf.HuggingFaceLM(model)


def test_a_cache_that_the_model_does_not_fill_is_an_error():
    policy = rlhf.HuggingFaceLM(llama())
    model = policy.model  # newer releases have another name for it
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    policy.train()
    with pytest.raises(RuntimeError, match="with gradient checkpointing, call eval"):
        policy.hidden(tokens(2, 4), cache=policy.cache())
    assert rlhf.sample(policy, tokens(2, 4), 3)[0].shape == (2, 3)


def test_what_a_reward_refuses():
    with pytest.raises(ValueError, match="index must be < 2, the number of the model's logits, got 2"):
        rlhf.SequenceReward(classifier(), tokenizer(), spoken, index=2)
    with pytest.raises(ValueError, match="index must be an integer >= 0, got -1"):
        rlhf.SequenceReward(classifier(), tokenizer(), spoken, index=-1)
    with pytest.raises(ValueError, match="batch must be an integer >= 1, got 0"):
        rlhf.SequenceReward(classifier(), tokenizer(), spoken, batch=0)
    with pytest.raises(ValueError, match=r"no pad token; set tokenizer\.pad_token, e\.g\. to tokenizer\.eos_token"):
        rlhf.SequenceReward(classifier(), tokenizer(pad_token=None), spoken)
    for own in (None, 1):
        with pytest.raises(ValueError, match=f"set model.config.pad_token_id to the tokenizer's 0, got {own}"):
            rlhf.SequenceReward(classifier(pad_token_id=own), tokenizer(), spoken)
    reward = rlhf.SequenceReward(classifier(), tokenizer(), spoken)
    with pytest.raises(ValueError, match="no token is left of ''"):
        reward(torch.tensor([[5], [PAD]]), torch.tensor([[6], [EOS]]))


def test_importing_the_package_does_not_import_transformers():
    code = (
        "import sys\nsys.modules['transformers'] = None\nfrom flatlab import rlhf\n"
        "print(rlhf.HuggingFaceLM.__name__, rlhf.SequenceReward.__name__)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["HuggingFaceLM", "SequenceReward"]
