"""How much a trained generator's digits look like digits to a trained classifier.

python benchmarks/gan_quality.py <checkpoint of examples/gan/config.json> <checkpoint of config.json>
"""

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from examples.gan.model import Gan
from model.model import MnistModel
from utils.errors import clean_exit
from utils.runs.checkpoint import load_checkpoint
from utils.runs.weights import load_weights


def main(gan_path, classifier_path, samples=10_000, confident=0.9):
    """Print the share of samples that the classifier is sure of, and how they are spread over the classes."""
    gan, classifier = _trained(Gan, gan_path), _trained(MnistModel, classifier_path)
    latent = torch.randn(samples, gan.latent_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        probability, digit = classifier(gan.generate(latent)).exp().max(dim=1)
    sure = probability > confident
    counts = digit[sure].bincount(minlength=10).tolist()
    print(f"{samples:,} samples; the classifier gives {sure.double().mean():.1%} a probability above {confident}")
    print("of these:  " + "  ".join(f"{i}: {count / max(1, sum(counts)):.1%}" for i, count in enumerate(counts)))
    print(f"classes with at least 1 %: {sum(count >= 0.01 * sum(counts) for count in counts)} of 10")


def _trained(kind, path):
    """The model with a checkpoint's weights, in evaluation mode."""
    checkpoint = load_checkpoint(path)
    model = kind(**checkpoint["config"]["arch"].get("args", {}))
    load_weights(model, checkpoint["state_dict"])
    return model.eval()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gan")
    parser.add_argument("classifier")
    arguments = parser.parse_args()
    with clean_exit():
        main(arguments.gan, arguments.classifier)
