import torch

from model.loss import cross_entropy, nll_loss


def test_cross_entropy_takes_logits():
    output, target = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), torch.tensor([0, 2])
    shares = output.exp() / output.exp().sum(1, keepdim=True)
    torch.testing.assert_close(cross_entropy(output, target), -(shares[0, 0].log() + shares[1, 2].log()) / 2)


def test_cross_entropy_of_log_probabilities_is_their_nll_loss():
    output = torch.randn(64, 10, generator=torch.Generator().manual_seed(0)).log_softmax(1).requires_grad_()
    target = torch.arange(64) % 10
    losses = cross_entropy(output, target), nll_loss(output, target)
    torch.testing.assert_close(*losses)
    logits = torch.randn(64, 10, requires_grad=True)
    gradients = [
        torch.autograd.grad(loss(logits.log_softmax(1), target), logits)[0] for loss in (cross_entropy, nll_loss)
    ]
    torch.testing.assert_close(*gradients)
