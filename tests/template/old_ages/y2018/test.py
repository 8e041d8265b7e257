import argparse
import torch
import data_loader.data_loaders as module_data
import model.loss as module_loss
import model.metric as module_metric
import model.model as module_arch
from train import get_instance


def main(config, resume):
    data_loader = getattr(module_data, config['data_loader']['type'])(
        batch_size=8, shuffle=False, validation_split=0.0, num_workers=0, training=False)
    model = get_instance(module_arch, 'arch', config)
    loss_fn = getattr(module_loss, config['loss'])
    metric_fns = [getattr(module_metric, met) for met in config['metrics']]

    checkpoint = torch.load(resume)
    model.load_state_dict(checkpoint['state_dict'])
    model.eval()
    total_loss, total_metrics = 0.0, torch.zeros(len(metric_fns))
    with torch.no_grad():
        for data, target in data_loader:
            output = model(data)
            total_loss += loss_fn(output, target).item() * data.shape[0]
            for i, metric in enumerate(metric_fns):
                total_metrics[i] += metric(output, target) * data.shape[0]
    n = len(data_loader.sampler)
    print({'loss': total_loss / n, **{met.__name__: total_metrics[i].item() / n for i, met in enumerate(metric_fns)}})


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description='Rows')
    parser.add_argument('-r', '--resume', default=None, type=str)
    args = parser.parse_args()
    main(torch.load(args.resume)['config'], args.resume)
