"""The decoder step by step against torch, and the rules of the label pool."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from attn_lstm.label_pool import emit_most_confident, label_log_probs, pool_log_softmax
from attn_lstm.models.decoder import Decoder

BATCH, REGIONS, WIDTH, LABELS = 3, 4, 5, 6


@pytest.fixture(scope="module")
def inputs():
    features = jax.random.normal(jax.random.key(0), (BATCH, REGIONS, WIDTH))
    probabilities = jax.random.uniform(jax.random.key(1), (BATCH, LABELS))
    return features, probabilities


def unrolled(decoder, inputs, steps=LABELS, **kwargs):
    variables = decoder.init(
        jax.random.key(2), *inputs, emit_most_confident, steps, method="unroll"
    )
    out = decoder.apply(variables, *inputs, emit_most_confident, steps, method="unroll", **kwargs)
    return variables, out


def torch_pass(params, features, probabilities, steps, use_attention=True, initial_state="mean"):
    """The equations of the paper's loop over steps, in torch, and of what goes beyond the paper."""
    p = jax.tree.map(lambda x: torch.tensor(np.asarray(x)), params)
    v, prob = torch.tensor(np.asarray(features)), torch.tensor(np.asarray(probabilities))

    def dense(name, x):
        return x @ p[name]["kernel"] + p[name].get("bias", 0)

    hidden = p["lstm"]["hf"]["bias"].shape[0]
    if initial_state == "mean":
        c, h = dense("initial_c", v.mean(1)), dense("initial_h", v.mean(1))
    else:
        c = h = torch.zeros(len(v), hidden)
    cell = torch.nn.LSTMCell(2 * LABELS + WIDTH, hidden)
    with torch.no_grad():
        cell.weight_ih.copy_(torch.cat([p["lstm"][f"i{g}"]["kernel"].T for g in "ifgo"]))
        cell.weight_hh.copy_(torch.cat([p["lstm"][f"h{g}"]["kernel"].T for g in "ifgo"]))
        cell.bias_hh.copy_(torch.cat([p["lstm"][f"h{g}"]["bias"] for g in "ifgo"]))
        cell.bias_ih.zero_()
    emitted = torch.zeros(len(v), LABELS)
    logits, labels = [], []
    for _ in range(steps):
        if use_attention:
            a = dict(p["attend"])
            query = h @ a["project_query"]["kernel"]
            e = torch.tanh(
                v @ a["project_features"]["kernel"] + a["project_features"]["bias"] + query[:, None]
            )
            e = e @ a["score"]["kernel"]
            if "evidence" in p:
                e = e + v @ p["evidence"]["kernel"]
            alpha = torch.softmax(e, dim=1)  # [B,K,1], or [B,K,C] with evidence
            sought = torch.where(emitted > 0, -torch.inf, prob).argmax(1) % alpha.shape[2]
            z = torch.stack([alpha[b, :, sought[b]] @ v[b] for b in range(len(v))])
        else:
            z = v.mean(1)
        h, c = cell(torch.cat([prob, z, emitted], dim=1), (h, c))
        out = dense("head", h)
        if "evidence" in p:
            out = out + (alpha * (v @ p["evidence"]["kernel"])).sum(1)
        prob = torch.sigmoid(out)
        pool = torch.where(emitted > 0, -torch.inf, out)
        label = pool.argmax(1)
        emitted = emitted + torch.nn.functional.one_hot(label, LABELS)
        logits.append(out)
        labels.append(label)
    return torch.stack(logits, 1).detach().numpy(), torch.stack(labels, 1).numpy()


@pytest.mark.parametrize("use_attention", [True, False])
@pytest.mark.parametrize("initial_state", ["mean", "zeros"])
def test_unrolled_decoder_equals_torch(inputs, use_attention, initial_state):
    decoder = Decoder(
        LABELS, hidden=8, attention=7, use_attention=use_attention, initial_state=initial_state
    )
    variables, out = unrolled(decoder, inputs)
    logits, labels = torch_pass(variables["params"], *inputs, LABELS, use_attention, initial_state)
    np.testing.assert_allclose(out.logits, logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(out.labels, labels)
    assert (out.attention is not None) == use_attention


def test_maps_by_label_equal_torch_and_give_each_label_its_own(inputs):
    decoder = Decoder(LABELS, hidden=8, attention=7, maps="label")
    variables, _ = unrolled(decoder, inputs)
    evidence = jax.random.normal(jax.random.key(3), (WIDTH, LABELS))
    variables["params"]["evidence"]["kernel"] = evidence
    out = decoder.apply(variables, *inputs, emit_most_confident, LABELS, method="unroll")
    logits, labels = torch_pass(variables["params"], *inputs, LABELS)
    np.testing.assert_allclose(out.logits, logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(out.labels, labels)
    assert out.attention.shape == (BATCH, LABELS, REGIONS)
    np.testing.assert_allclose(out.attention.sum(-1), 1.0, rtol=1e-5)
    # Two labels' maps differ by their evidence alone, within a step.
    memory, state = decoder.apply(variables, *inputs, method="start")
    _, _, weights = decoder.apply(variables, memory, state, method="step")
    ratio = weights[:, 1] / weights[:, 0]
    apart = np.exp(inputs[0] @ (evidence[:, 1] - evidence[:, 0]))
    np.testing.assert_allclose(ratio / ratio[:, :1], apart / apart[:, :1], rtol=1e-4)


def test_maps_by_label_start_as_the_map_of_the_step(inputs):
    shared, own = (Decoder(LABELS, hidden=8, attention=7, maps=m) for m in ("step", "label"))
    variables, out = unrolled(own, inputs)
    evidence = variables["params"].pop("evidence")["kernel"]
    assert not evidence.any()
    same = shared.apply(variables, *inputs, emit_most_confident, LABELS, method="unroll")
    np.testing.assert_allclose(out.logits, same.logits, rtol=1e-6)
    np.testing.assert_allclose(out.attention, same.attention, rtol=1e-6)


@pytest.mark.parametrize("end_token", [True, False])
@pytest.mark.parametrize("maps", ["step", "label"])
def test_no_label_is_emitted_twice_and_attention_is_returned(inputs, end_token, maps):
    decoder = Decoder(LABELS, hidden=8, attention=7, maps=maps, end_token=end_token)
    _, out = unrolled(decoder, inputs)
    np.testing.assert_array_equal(np.sort(out.labels, axis=1), [list(range(LABELS))] * BATCH)
    assert out.logits.shape == (BATCH, LABELS, LABELS + end_token)
    assert out.attention.shape == (BATCH, LABELS, REGIONS)
    np.testing.assert_allclose(out.attention.sum(-1), 1.0, rtol=1e-5)
    for t in range(LABELS):
        before = jax.nn.one_hot(out.labels[:, :t], LABELS, dtype=bool).any(1)
        np.testing.assert_array_equal(out.emitted[:, t], before)


def test_gradients_flow_through_the_soft_probabilities_of_all_steps(inputs):
    decoder = Decoder(LABELS, hidden=8, attention=7)
    variables, _ = unrolled(decoder, inputs)

    def last_step(probabilities):
        out = decoder.apply(
            variables, inputs[0], probabilities, emit_most_confident, 4, method="unroll"
        )
        return out.logits[:, -1].sum()

    gradient = jax.grad(last_step)(inputs[1])
    assert jnp.isfinite(gradient).all()
    assert (jnp.abs(gradient).sum(axis=1) > 0).all()


def test_dropout_needs_training_and_changes_the_steps(inputs):
    decoder = Decoder(LABELS, hidden=8, attention=7, dropout=0.5)
    _, quiet = unrolled(decoder, inputs)
    _, noisy = unrolled(decoder, inputs, train=True, rngs={"dropout": jax.random.key(5)})
    assert not np.allclose(quiet.logits, noisy.logits)


def test_unknown_initial_state_names_the_choices(inputs):
    with pytest.raises(ValueError, match="mean or zeros"):
        unrolled(Decoder(LABELS, hidden=8, attention=7, initial_state="random"), inputs)


def test_unknown_maps_name_the_choices(inputs):
    with pytest.raises(ValueError, match="step or label"):
        unrolled(Decoder(LABELS, hidden=8, attention=7, maps="image"), inputs)


def test_pool_softmax_leaves_out_emitted_labels():
    logits = jnp.array([[1.0, 2.0, 3.0, 0.5]])
    emitted = jnp.array([[False, True, False]])
    log_probs, end = label_log_probs(logits, emitted, end_token=True)
    weights = np.exp([1.0, 3.0, 0.5])
    np.testing.assert_allclose(np.exp(log_probs[0]), [weights[0] / weights.sum(), 0,
                               weights[1] / weights.sum()], rtol=1e-6)  # fmt: skip
    np.testing.assert_allclose(np.exp(end), weights[2:] / weights.sum(), rtol=1e-6)
    np.testing.assert_allclose(jnp.exp(pool_log_softmax(logits, emitted)).sum(), 1.0, rtol=1e-6)
