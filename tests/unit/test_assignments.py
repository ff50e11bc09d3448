from __future__ import annotations

import pytest
import torch

from lbgnas.grouping.assignments import (
    RowOptimizer,
    assigned,
    assignment_gradient,
    initial_assignments,
    initial_row_state,
    move_rows,
)

pytestmark = pytest.mark.usefixtures("float64")

KINDS = [RowOptimizer("sgd", 0.3), RowOptimizer("adam", 0.1), RowOptimizer("adam", 0.02, (0.9, 0.999))]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def steps(count, samples, groups, batch, seed=0):
    """Batches of ids and gradients, some rows more often than others."""
    g = generator(seed)
    for _ in range(count):
        ids = torch.randperm(samples, generator=g)[:batch]
        yield ids, torch.randn(batch, groups, generator=g)


def test_assigned_is_the_largest_entry_of_each_row():
    z = torch.randn(6, 3, generator=generator())
    prob, group = assigned(z)
    for n in range(6):
        row = torch.exp(z[n]) / torch.exp(z[n]).sum()
        assert group[n] == max(range(3), key=lambda k: z[n, k].item())
        assert prob[n].item() == pytest.approx(row[group[n]].item(), rel=1e-14)


@pytest.mark.parametrize("groups", [1, 2, 5])
def test_assignment_gradient_equals_autograd(groups):
    z = torch.randn(7, groups, generator=generator(), requires_grad=True)
    weights = torch.randn(7, generator=generator(1))
    (expected,) = torch.autograd.grad((assigned(z)[0] * weights).sum(), z)
    actual = assignment_gradient(z.detach(), weights)
    assert torch.allclose(actual, expected, rtol=1e-12, atol=1e-16)
    assert actual.sum(1).abs().max() < 1e-15, "softmax has no slope along (1, ..., 1)"
    assert actual.any() == (groups > 1)


def test_assignment_gradient_at_a_tie_follows_the_assigned_group():
    z = torch.zeros(1, 3)
    column = assigned(z)[1].item()
    gradient = assignment_gradient(z, torch.ones(1))
    assert gradient[0, column].item() == pytest.approx(2 / 9)
    assert gradient[0].argmax().item() == column


def test_initial_assignments_are_small_random_and_repeatable():
    z = initial_assignments(4000, 3, seed=7)
    assert z.shape == (4000, 3)
    assert z.std().item() == pytest.approx(1e-3, rel=0.05)
    assert torch.equal(z, initial_assignments(4000, 3, seed=7))
    assert not torch.equal(z, initial_assignments(4000, 3, seed=8))
    shares = torch.bincount(z.argmax(1), minlength=3) / 4000
    assert (shares - 1 / 3).abs().max() < 0.05


@pytest.mark.parametrize("optimizer", KINDS)
def test_untouched_rows_are_bit_equal_and_inputs_are_not_edited(optimizer):
    z = torch.randn(9, 3, generator=generator())
    state = initial_row_state(z)
    for ids, gradient in steps(4, 8, 3, 3):  # row 8 is never drawn
        before = z.clone(), [part.clone() for part in state]
        moved, new_state = move_rows(z, ids, gradient, optimizer, state)
        assert torch.equal(z, before[0])
        assert all(torch.equal(a, b) for a, b in zip(state, before[1], strict=True))
        others = torch.ones(9, dtype=torch.bool)
        others[ids] = False
        assert torch.equal(moved[others], z[others])
        assert all(torch.equal(a[others], b[others]) for a, b in zip(new_state, state, strict=True))
        assert (moved[ids] != z[ids]).all()
        z, state = moved, new_state


def test_sgd_moves_rows_by_rate_times_gradient():
    z = torch.randn(5, 2, generator=generator())
    ids, gradient = torch.tensor([3, 0]), torch.tensor([[1.0, -1.0], [0.5, 2.0]])
    moved, _ = move_rows(z, ids, gradient, RowOptimizer("sgd", 0.3), initial_row_state(z))
    expected = z.clone()
    for row, line in zip(ids.tolist(), gradient, strict=True):
        expected[row] -= 0.3 * line
    assert torch.equal(moved, expected)


@pytest.mark.parametrize("betas", [(0.5, 0.9), (0.9, 0.999)])
def test_adam_equals_dense_adam_when_every_row_moves_every_step(betas):
    z = torch.randn(6, 3, generator=generator())
    parameter = z.clone().requires_grad_()
    dense = torch.optim.Adam([parameter], 0.1, betas, eps=1e-12)
    state = initial_row_state(z)
    for ids, gradient in steps(25, 6, 3, 6):
        z, state = move_rows(z, ids, gradient, RowOptimizer("adam", 0.1, betas), state)
        parameter.grad = torch.zeros_like(z).index_copy(0, ids, gradient)
        dense.step()
        assert torch.allclose(z, parameter, rtol=1e-10, atol=1e-13)


def test_adam_rows_equal_one_adam_per_row():
    """A row's history is its own: rows in few batches are corrected by their own count of steps."""
    z = torch.randn(6, 2, generator=generator())
    rows = [row.clone().requires_grad_() for row in z]
    own = [torch.optim.Adam([row], 0.1, (0.5, 0.9), eps=1e-12) for row in rows]
    state = initial_row_state(z)
    count = [0] * 6
    for ids, gradient in steps(12, 6, 2, 2):
        z, state = move_rows(z, ids, gradient, RowOptimizer(), state)
        for row, line in zip(ids.tolist(), gradient, strict=True):
            rows[row].grad = line
            own[row].step()
            count[row] += 1
    assert len(set(count)) > 1
    assert state.moves.tolist() == count
    assert torch.allclose(z, torch.stack(rows), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("optimizer", KINDS)
def test_columns_are_exchangeable(optimizer):
    permutation = torch.tensor([2, 0, 1])
    z = torch.randn(5, 3, generator=generator())
    other = z[:, permutation]
    state, other_state = initial_row_state(z), initial_row_state(other)
    for ids, gradient in steps(5, 5, 3, 2):
        z, state = move_rows(z, ids, gradient, optimizer, state)
        other, other_state = move_rows(other, ids, gradient[:, permutation], optimizer, other_state)
        assert torch.equal(other, z[:, permutation])


def test_order_of_ids_does_not_matter():
    z = torch.randn(5, 3, generator=generator())
    (ids, gradient), order = next(steps(1, 5, 3, 4)), torch.tensor([3, 1, 0, 2])
    first = move_rows(z, ids, gradient, RowOptimizer(), initial_row_state(z))
    second = move_rows(z, ids[order], gradient[order], RowOptimizer(), initial_row_state(z))
    assert torch.equal(first[0], second[0])
    assert all(torch.equal(a, b) for a, b in zip(first[1], second[1], strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1e-9, 1e-4, 1.0, 1e6])
def test_adam_step_does_not_depend_on_the_size_of_the_gradient(size, dtype):
    z = torch.zeros(2, 2, dtype=dtype)
    gradient = size * torch.tensor([[1.0, -1.0]], dtype=dtype)
    state = initial_row_state(z)
    moved, state = move_rows(z, torch.tensor([1]), gradient, RowOptimizer(rate=0.1), state)
    assert moved.dtype == dtype
    assert moved[1].tolist() == pytest.approx([-0.1, 0.1], rel=2e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [0.0, 1e-45, 1e-38, 1e-30, 1e-22, 1e-15, 1e-12])
def test_adam_steps_of_vanishing_gradients_stay_within_the_rate(size, dtype):
    """Squares underflow long before their roots: a step must then shrink, never grow."""
    z = torch.zeros(1, 2, dtype=dtype)
    state = initial_row_state(z)
    for _ in range(5):
        gradient = size * torch.tensor([[1.0, -1.0]], dtype=dtype)
        before = z
        z, state = move_rows(z, torch.tensor([0]), gradient, RowOptimizer(rate=0.1), state)
        assert torch.isfinite(z).all()
        assert (z - before).abs().max() <= 0.1001
        if not size:
            assert torch.equal(z, before)
