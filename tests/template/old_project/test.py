import argparse

import data_loader.data_loaders as module_data
import model.loss as module_loss
import model.metric as module_metric
import model.model as module_arch
import torch
from parse_config import ConfigParser


def main(config):
    logger = config.get_logger('test')
    data_loader = getattr(module_data, config['train_loader']['type'])(
        config['train_loader']['args']['csv_path'], batch_size=64, shuffle=False, validation_split=0.0, num_workers=0)
    model = config.init_obj('arch', module_arch)
    loss_fn = getattr(module_loss, config['loss'])
    metric_fns = [getattr(module_metric, met) for met in config['metrics']]

    logger.info('Loading checkpoint: {} ...'.format(config.resume))
    checkpoint = torch.load(config.resume)
    if config['n_gpu'] > 1:
        model = torch.nn.DataParallel(model)
    model.load_state_dict(checkpoint['state_dict'])
    model.eval()
    total_loss = 0.0
    total_metrics = torch.zeros(len(metric_fns))
    with torch.no_grad():
        for data, target in data_loader:
            output = model(data)
            total_loss += loss_fn(output, target).item() * data.shape[0]
            for i, metric in enumerate(metric_fns):
                total_metrics[i] += metric(output, target) * data.shape[0]
    n_samples = len(data_loader.sampler)
    log = {'loss': total_loss / n_samples}
    log.update({met.__name__: total_metrics[i].item() / n_samples for i, met in enumerate(metric_fns)})
    logger.info(log)


if __name__ == '__main__':
    args = argparse.ArgumentParser(description='Points')
    args.add_argument('-c', '--config', default=None, type=str, help='config file path')
    args.add_argument('-r', '--resume', default=None, type=str, help='path to latest checkpoint')
    args.add_argument('-d', '--device', default=None, type=str, help='indices of GPUs to enable')
    main(ConfigParser.from_args(args))
