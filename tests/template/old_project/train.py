import argparse
import collections

import data_loader.data_loaders as module_data
import model.loss as module_loss
import model.metric as module_metric
import model.model as module_arch
import numpy as np
import torch
from parse_config import ConfigParser
from trainer import Trainer
from utils import prepare_device


def main(config):
    torch.manual_seed(config['seed'])
    np.random.seed(config['seed'])
    logger = config.get_logger('train')

    config['train_loader']['args']['num_workers'] = 0
    data_loader = config.init_obj('train_loader', module_data)
    valid_data_loader = data_loader.split_validation()
    halves = module_data.HalvesLoader(config['train_loader']['args']['csv_path'], 16)
    assert len(halves.first.sampler) == len(halves.second.sampler) == len(halves.dataset) / 2

    model = config.init_obj('arch', module_arch)
    small = config.init_obj('arch1', module_arch)
    logger.info(model)
    logger.info('small model: {}'.format(sum(p.numel() for p in small.parameters())))

    device, device_ids = prepare_device(config['n_gpu'])
    model = model.to(device)
    if len(device_ids) > 1:
        model = torch.nn.DataParallel(model, device_ids=device_ids)

    criterion = getattr(module_loss, config['loss'])
    metrics = [getattr(module_metric, met) for met in config['metrics']]
    trainable_params = filter(lambda p: p.requires_grad, model.parameters())
    optimizer = config.init_obj('optimizer', torch.optim, trainable_params)
    lr_scheduler = config.init_obj('lr_scheduler', torch.optim.lr_scheduler, optimizer)
    trainer = Trainer(model, criterion, metrics, optimizer, config=config, device=device, data_loader=data_loader,
                      valid_data_loader=valid_data_loader, lr_scheduler=lr_scheduler)
    trainer.train()


if __name__ == '__main__':
    args = argparse.ArgumentParser(description='Points')
    args.add_argument('-c', '--config', default=None, type=str, help='config file path')
    args.add_argument('-r', '--resume', default=None, type=str, help='path to latest checkpoint')
    args.add_argument('-d', '--device', default=None, type=str, help='indices of GPUs to enable')
    CustomArgs = collections.namedtuple('CustomArgs', 'flags type target')
    options = [
        CustomArgs(['--lr', '--learning_rate'], type=float, target='optimizer;args;lr'),
        CustomArgs(['--hidden'], type=int, target='arch;args;hidden'),
    ]
    config = ConfigParser.from_args(args, options)
    main(config)
