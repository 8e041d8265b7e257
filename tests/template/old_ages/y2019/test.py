import argparse
import torch
import data_loader.data_loaders as module_data
import model.loss as module_loss
import model.metric as module_metric
import model.model as module_arch
from parse_config import ConfigParser


def main(config):
    logger = config.get_logger('test')
    data_loader = getattr(module_data, config['data_loader']['type'])(
        batch_size=8, shuffle=False, validation_split=0.0, num_workers=0, training=False)
    model = config.initialize('arch', module_arch)
    loss_fn = getattr(module_loss, config['loss'])
    metric_fns = [getattr(module_metric, met) for met in config['metrics']]

    logger.info('Loading checkpoint: {} ...'.format(config.resume))
    checkpoint = torch.load(config.resume)
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
    args = argparse.ArgumentParser(description='Rows')
    args.add_argument('-r', '--resume', default=None, type=str)
    args.add_argument('-c', '--config', default=None, type=str)
    args.add_argument('-d', '--device', default=None, type=str)
    main(ConfigParser(args, timestamp=False))
