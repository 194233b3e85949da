"""Brevitas networks to export, as ``--module examples.networks.resnet:resnet18``."""
