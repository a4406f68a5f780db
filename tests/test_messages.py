"""Messages along edges: the kernel against plain torch in both precisions, gradients, edges that are none, threads, and what is refused."""

import pytest
import torch

from structwm.kernels.messages import edge_messages
from structwm.kernels.messages_reference import edge_messages as plain


def drawn(problems, receivers, senders, slots, depth, width, dtype=torch.float64):
    """Inputs, half of the weights 0."""
    generator = torch.Generator().manual_seed(0)

    def values(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_()

    index = torch.randint(0, senders, (problems, receivers, slots), generator=generator, dtype=torch.int32)
    weights = torch.rand(problems, receivers, slots, generator=generator, dtype=dtype)
    tensors = values(problems, receivers, width), values(problems, senders, width), values(problems, receivers, slots, depth), values(depth, width)
    return *tensors, index, torch.where(weights < 0.5, 0.0, weights).requires_grad_()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 2e-6)])
@pytest.mark.parametrize("sizes", [(3, 7, 9, 4, 5, 32), (2, 5, 5, 1, 1, 3), (1, 600, 600, 6, 11, 16), (4, 3, 8, 2, 32, 17)])
def test_messages_are_those_of_plain_torch(sizes, dtype, tolerance):
    inputs = drawn(*sizes, dtype=dtype)
    leaves = [value for value in inputs if value.requires_grad]
    weights = torch.randn(sizes[0], sizes[1], sizes[5], generator=torch.Generator().manual_seed(1), dtype=dtype)
    ours, theirs = edge_messages(*inputs), plain(*inputs)
    assert float((ours - theirs).abs().max()) < tolerance * (1 + float(theirs.abs().max()))
    mine, others = (torch.autograd.grad((value * weights).sum(), leaves) for value in (ours, theirs))
    there = (inputs[-1] > 0).to(dtype)
    for place, (a, b) in enumerate(zip(mine, others, strict=True)):
        b = b * there if place == 4 else b  # by weights of edges that are none: no gradient
        assert float((a - b).abs().max()) < 5 * tolerance * (1 + float(b.abs().max())), place


def test_gradients_are_those_of_differences():
    *tensors, weights = drawn(2, 3, 4, 3, 5, 7)
    assert torch.autograd.gradcheck(edge_messages, (*tensors, (weights.detach() + 0.1).requires_grad_()))


def test_an_edge_of_weight_zero_is_none():
    receivers, senders, edges, table, index, weights = drawn(2, 4, 5, 3, 2, 16)
    lone = torch.where(weights > 0, edges.sum(-1), torch.nan).unsqueeze(-1).expand_as(edges).detach().requires_grad_()
    heard = edge_messages(receivers, senders, lone, table, index, weights)
    assert heard.isfinite().all()
    for gradient in torch.autograd.grad(heard.sum(), (receivers, senders, lone, table, weights)):
        assert gradient.isfinite().all()


def test_large_numbers_saturate():
    one = torch.full((1, 1, 16), 500.0)
    nothing = (torch.zeros(1, 1, 1, 1), torch.zeros(1, 16), torch.zeros(1, 1, 1, dtype=torch.int32), torch.ones(1, 1, 1))
    assert torch.equal(edge_messages(one, one, *nothing), torch.full((1, 1, 16), 1000.0))
    assert float(edge_messages(-one, -one, *nothing).abs().max()) < 1e-30


def test_many_threads_give_the_same_bits():
    inputs = drawn(4, 700, 700, 4, 6, 32, dtype=torch.float32)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            heard = edge_messages(*inputs)
            results.append((heard, *torch.autograd.grad(heard.square().sum(), [value for value in inputs if value.requires_grad])))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_a_batch_gives_the_bits_of_its_problems():
    inputs = drawn(5, 40, 50, 4, 6, 32, dtype=torch.float32)
    alone = [edge_messages(*(value[p : p + 1] if value.ndim > 2 else value for value in inputs)) for p in range(5)]
    assert torch.equal(edge_messages(*inputs), torch.cat(alone))


def test_a_tensor_without_elements_and_a_network_of_torch():
    receivers, senders, edges, table, index, weights = drawn(2, 4, 5, 3, 2, 16)
    assert edge_messages(receivers[:, :0], senders, edges[:, :0], table, index[:, :0], weights[:, :0]).shape == (2, 0, 16)
    assert torch.equal(edge_messages(receivers, senders, edges[:, :, :0], table, index[:, :, :0], weights[:, :, :0]), torch.zeros_like(receivers))
    torch.library.opcheck(torch.ops.structwm.edge_messages.default, (receivers, senders, edges, table, index, weights))


def test_what_does_not_fit_is_refused():
    receivers, senders, edges, table, index, weights = drawn(2, 4, 5, 3, 2, 16)
    with pytest.raises(ValueError, match="edge_messages: expected .*index"):
        edge_messages(receivers, senders, edges, table, index[:, :2], weights)
    with pytest.raises(ValueError, match="at most 32 numbers of an edge, got 33"):
        edge_messages(receivers, senders, torch.zeros(2, 4, 3, 33, dtype=torch.float64), torch.zeros(33, 16, dtype=torch.float64), index, weights)
    with pytest.raises(TypeError, match="float32 or float64"):
        edge_messages(receivers.half(), senders.half(), edges.half(), table.half(), index, weights.half())
    with pytest.raises(ValueError, match="forward-mode"):
        torch.func.jvp(lambda value: edge_messages(value, senders, edges, table, index, weights), (receivers.detach(),), (receivers.detach(),))
