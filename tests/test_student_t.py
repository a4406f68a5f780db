"""The loss of Student-t errors, and the weights that have its slope."""

from __future__ import annotations

import torch
from torch.distributions import StudentT

from structwm.physics.student_t import DOF, student_t_loss, student_t_weights


def test_the_loss_is_that_of_the_distribution_and_the_weights_have_its_slope() -> None:
    errors = torch.linspace(-30, 30, 41, dtype=torch.float64, requires_grad=True)
    loss, law = student_t_loss(errors.square()[:, None], -1), StudentT(torch.tensor(DOF, dtype=torch.float64))
    torch.testing.assert_close(loss, law.log_prob(torch.zeros((), dtype=torch.float64)) - law.log_prob(errors))
    (slope,) = torch.autograd.grad(student_t_loss(errors.square()), errors)
    torch.testing.assert_close(student_t_weights(errors.square()) * errors, slope)
