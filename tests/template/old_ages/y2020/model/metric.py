import torch


def accuracy(output, target):
    with torch.no_grad():
        return torch.sum(torch.argmax(output, dim=1) == target).item() / len(target)


def wrong(output, target):
    return 1.0 - accuracy(output, target)
