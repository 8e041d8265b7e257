"""Predict with a trained model: python predict.py -r saved/models/<name>/<run>/model_best.pth a.png b.png."""

import argparse
import sys

from utils.distributed.launch import refuse_several
from utils.errors import UserError, clean_exit, in_one_line


def main(flags: argparse.Namespace) -> int:
    """Predict for each example and write what was asked for; returns the exit status, 1 if a file was not read."""
    # Imported here, so that --help need not wait for torch.
    import numpy as np

    from base.data.sources import batches_of_examples
    from base.trained_model import TrainedModel
    from logger.predictions import PredictionWriter

    model = TrainedModel.load(flags.resume, flags.device)
    batches = batches_of_examples(flags.sources, model.input, flags.batch_size)
    with PredictionWriter(flags.out, flags.json, flags.save_outputs) as writer:
        for batch in batches:
            outputs = model.outputs(np.stack(batch.raw)) if batch.raw else None
            predictions = iter(() if outputs is None else model.output.describe(outputs, flags.top))
            rows = [
                {"source": name, **({"error": batch.errors[place]} if place in batch.errors else next(predictions))}
                for place, name in enumerate(batch.names)
            ]
            writer.add(rows, None if outputs is None else outputs.float().cpu().numpy())
    return 1 if writer.num_errors else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Predict with a trained model.", allow_abbrev=False)
    parser.add_argument(
        "sources", nargs="*", metavar="SOURCE", help="files, folders or patterns; - reads names of files"
    )
    parser.add_argument(
        "-r", "--resume", metavar="CHECKPOINT", required=True, help="checkpoint, run folder or 'latest'"
    )
    parser.add_argument("-d", "--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    parser.add_argument("--top", type=int, default=1, metavar="N", help="list the N most probable classes")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="examples computed at once (64)")
    parser.add_argument("--out", metavar="FILE", help="write a .csv file of all predictions")
    parser.add_argument("--json", action="store_true", help="print a JSON object for each example")
    parser.add_argument("--save-outputs", metavar="FILE", help="write the model's outputs as a .npy file")
    flags = in_one_line(parser).parse_args()
    with clean_exit():
        refuse_several("predict.py")
        if not flags.sources:
            raise UserError("nothing to predict for; give files, a folder, a pattern, or - for names on standard input")
        sys.exit(main(flags))
